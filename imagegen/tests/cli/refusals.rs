//! Invalid input leads to one clear error and a failure status, and leaves nothing behind.
//!
//! Packages are in [`refused_packages`](crate::refused_packages), mistakes in a topology in
//! [`topology`](crate::topology) and [`commands`](crate::commands), a full disk and a kill in
//! [`interrupted`](crate::interrupted).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use crate::package;
use crate::work::{Work, imagegen_for_all, skip, static_programs, stderr};

/// The only error message of a failed run, which must leave `names` in `work`.
pub(crate) fn refused(work: &Work, output: &Output, names: &[&str]) -> String {
    let printed = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert_eq!(work.names(), names, "{printed}");
    let messages: Vec<_> = printed
        .lines()
        .filter(|line| line.starts_with("imagegen: "))
        .collect();
    assert_eq!(messages.len(), 1, "{printed}");
    assert!(!printed.contains("panicked"), "{printed}");
    messages[0].to_owned()
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn full_disk_is_reported_before_the_first_write() {
    if !is_root() {
        return skip("mounting needs root");
    }
    let work = Work::new();
    static_programs(&work);
    package::folder(&work.path("kube"), &[]);
    fs::create_dir(work.path("small")).expect("a folder");
    let image = work.image(&["-p", "kube", "-o", "small/out"]);
    let script = "mount -t tmpfs -o size=1m none small || exit 99
        \"$@\"; status=$?; ls -A small >small-names; exit $status";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(image.get_program())
        .args(image.get_args())
        .envs(
            image
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(work.path(""))
        .output()
        .expect("running unshare");
    let names = [
        "cache",
        "cluster.yaml",
        "kube",
        "programs",
        "small",
        "small-names",
    ];
    let printed = refused(&work, &output, &names);
    assert!(
        printed.contains("there is not enough space in `small/out/")
            && printed.contains("MiB are needed"),
        "{printed}"
    );
    let left = fs::read_to_string(work.path("small-names")).expect("the names");
    assert_eq!(left, "");
}

#[test]
fn missing_tool_is_named_with_its_install_command() {
    if !is_root() {
        return skip("building images needs root, which is checked first");
    }
    let work = Work::new();
    static_programs(&work);
    package::folder(&work.path("kube"), &[]);
    let mut image = work.image(&["-p", "kube"]);
    image.env("PATH", "/nonexistent");
    let output = image.output().expect("running imagegen");
    let printed = refused(
        &work,
        &output,
        &["cache", "cluster.yaml", "kube", "programs"],
    );
    assert_eq!(
        printed,
        "imagegen: making the Debian tree for image tools: `mmdebstrap` is not on this machine; \
         install it: \
         sudo apt-get install mmdebstrap"
    );
}

#[test]
fn foreign_output_folders_are_refused_unchanged() {
    let work = Work::new();
    type Make = fn(&std::path::Path);
    let cases: [(Make, &str, &[&str]); 4] = [
        (
            |at| fs::write(at, "precious").expect("a file"),
            "`prod` is not a folder; give another with --output",
            &[],
        ),
        (
            |at| {
                fs::create_dir(at).expect("a folder");
                fs::write(at.join("thesis.tex"), "precious").expect("a file");
            },
            "`prod` is not empty and has no `manifest.json`: not an output folder of imagegen; \
             give another with --output, or empty it",
            &["thesis.tex"],
        ),
        (
            |at| {
                fs::create_dir(at).expect("a folder");
                fs::write(at.join("manifest.json"), r#"{"name": "a web page"}"#).expect("a file");
            },
            "reading `prod/manifest.json`; is `prod` an output folder of imagegen?: unknown field \
             `name`",
            &["manifest.json"],
        ),
        (
            |at| {
                fs::create_dir(at).expect("a folder");
                let text = r#"{"apiVersion": "firstlight/v9", "kind": "Manifest", "inputs": {}, "outputs": {}}"#;
                fs::write(at.join("manifest.json"), text).expect("a file");
            },
            "`prod/manifest.json` is a `Manifest` of `firstlight/v9`, not a `Manifest` of \
             `firstlight/v1`",
            &["manifest.json"],
        ),
    ];
    for (make, words, names) in cases {
        make(&work.path("prod"));
        let output = work.run(&["userdata", "-t", "cluster.yaml"]);
        let printed = refused(&work, &output, &["cluster.yaml", "prod"]);
        assert!(printed.contains(words), "{printed}");
        if work.path("prod").is_dir() {
            let left: Vec<_> = work.state("prod").into_keys().collect();
            assert_eq!(
                left,
                names
                    .iter()
                    .map(std::path::PathBuf::from)
                    .collect::<Vec<_>>()
            );
            fs::remove_dir_all(work.path("prod")).expect("removing it");
        } else {
            assert_eq!(fs::read(work.path("prod")).expect("the file"), b"precious");
            fs::remove_file(work.path("prod")).expect("removing it");
        }
    }
    let output = work.run(&["userdata", "-t", "cluster.yaml", "-o", "no/such/folder"]);
    let printed = refused(&work, &output, &["cluster.yaml"]);
    assert!(
        printed.contains("creating the output folder `no/such/folder`: No such file"),
        "{printed}"
    );
}

/// Files and folders of root, used by another user.
#[test]
fn permission_errors_name_the_path() {
    if !is_root() {
        return skip("changing owners needs root");
    }
    let work = Work::new();
    let imagegen = imagegen_for_all(&work);
    let as_nobody = |args: &[&str]| {
        Command::new(&imagegen)
            .args(args)
            .current_dir(work.path(""))
            .env("FIRSTLIGHT_CACHE", work.path("cache"))
            .uid(65534)
            .gid(65534)
            .output()
            .expect("running imagegen")
    };
    let names = ["cluster.yaml", "imagegen"];
    let printed = refused(
        &work,
        &as_nobody(&["userdata", "-t", "cluster.yaml"]),
        &names,
    );
    assert_eq!(
        printed,
        "imagegen: creating the output folder `prod`: Permission denied (os error 13)"
    );
    let printed = refused(&work, &as_nobody(&["package", "-o", "kube.tar"]), &names);
    assert!(
        printed.starts_with("imagegen: creating the cache folder `")
            && printed.contains("(set FIRSTLIGHT_CACHE to another)"),
        "{printed}"
    );

    work.userdata();
    let before = work.state("prod");
    let names = ["cluster.yaml", "imagegen", "prod"];
    let printed = refused(
        &work,
        &as_nobody(&["userdata", "-t", "cluster.yaml"]),
        &names,
    );
    assert!(
        printed.starts_with("imagegen: `prod` belongs to user 0, but imagegen runs as user 65534"),
        "{printed}"
    );
    assert!(work.state("prod") == before);

    fs::set_permissions(work.path("cluster.yaml"), fs::Permissions::from_mode(0o600))
        .expect("closing it");
    let printed = refused(
        &work,
        &as_nobody(&["validate", "-t", "cluster.yaml"]),
        &names,
    );
    assert_eq!(
        printed,
        "imagegen: reading the topology `cluster.yaml`: Permission denied (os error 13)"
    );
}

#[test]
fn topology_that_is_not_utf8_is_refused() {
    let work = Work::new();
    fs::write(work.path("cluster.yaml"), b"name: \xff\xfe").expect("writing");
    let output = work.run(&["validate", "-t", "cluster.yaml"]);
    let printed = refused(&work, &output, &["cluster.yaml"]);
    assert!(
        printed.contains("reading the topology `cluster.yaml`: it is not UTF-8 text"),
        "{printed}"
    );
    let output = work.run(&["validate", "-t", "."]);
    let printed = refused(&work, &output, &["cluster.yaml"]);
    assert!(
        printed.contains("reading the topology `.`: Is a directory"),
        "{printed}"
    );
}
