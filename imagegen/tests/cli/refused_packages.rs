//! Missing, broken and harmful packages.

use std::fs;

use crate::package::{self, Raw};
use crate::refusals::{is_root, refused};
use crate::work::{PROD, Work, skip, static_programs, stderr};

#[test]
fn missing_package_is_reported_at_its_line() {
    let work = Work::new();
    let output = work.run(&["package", "--package", "nowhere.tar"]);
    let printed = refused(&work, &output, &["cluster.yaml"]);
    assert_eq!(
        printed,
        "imagegen: opening the package `nowhere.tar`: No such file or directory (os error 2)"
    );
    if !is_root() {
        return skip("building images needs root, which is checked before the package");
    }
    static_programs(&work);
    let output = work.run(&["-t", "cluster.yaml", "--programs", "programs"]);
    let printed = refused(&work, &output, &["cluster.yaml", "programs"]);
    assert_eq!(
        printed,
        "imagegen: cluster.yaml:4:10: opening the package `kube-1.20.2.tar.zst`: No such file or \
         directory (os error 2)"
    );
}

#[test]
fn validate_reports_a_missing_package_at_its_key() {
    let work = Work::new();
    let output = work.run(&["validate", "-t", "cluster.yaml"]);
    let printed = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{printed}");
    assert!(
        printed.contains("cluster.yaml:4:10")
            && printed.contains("the package `kube-1.20.2.tar.zst` does not exist"),
        "{printed}"
    );

    // Relative to the topology, not to the working directory.
    fs::create_dir(work.path("sub")).expect("a folder");
    fs::rename(work.path("cluster.yaml"), work.path("sub/cluster.yaml")).expect("moving it");
    fs::write(work.path("sub/kube-1.20.2.tar.zst"), "").expect("writing");
    let output = work.run(&["validate", "-t", "sub/cluster.yaml"]);
    assert!(output.status.success(), "{}", stderr(&output));

    let output = work.run(&["validate", "-t", "sub/cluster.yaml", "-p", "nowhere.tar"]);
    assert_eq!(
        refused(&work, &output, &["sub"]),
        "imagegen: opening the package `nowhere.tar`: No such file or directory (os error 2)"
    );
}

#[test]
fn validate_reports_a_missing_package_beside_other_mistakes() {
    let work = Work::new();
    work.topology(&PROD.replace("192.168.7.20/24", "192.168.7.300/24"));
    let output = work.run(&["validate", "-t", "cluster.yaml"]);
    let printed = stderr(&output);
    for part in ["does not exist", "not an address with prefix", "2 error(s)"] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
}

#[test]
fn invalid_packages_are_refused_by_name() {
    let whole = Raw::whole().bytes();
    let with = |name: &str, kind: tar::EntryType, link: &str| {
        let mut raw = Raw::whole();
        raw.add(name, kind, link, b"x");
        raw.bytes()
    };
    let mut lacking = Raw::new();
    lacking.add("bin/kubelet", tar::EntryType::Regular, "", b"x");
    let zstd = zstd::encode_all(whole.as_slice(), 1).expect("in memory");
    let (file, symlink, hard) = (
        tar::EntryType::Regular,
        tar::EntryType::Symlink,
        tar::EntryType::Link,
    );
    let cases: [(&str, Vec<u8>, &str); 12] = [
        (
            "a file is missing",
            lacking.bytes(),
            "it lacks bin/kubeadm, bin/kubectl, conf/",
        ),
        ("cut", whole[..whole.len() / 2].to_vec(), "it is cut off"),
        (
            "cut and compressed",
            zstd[..zstd.len() / 2].to_vec(),
            "it is cut off",
        ),
        ("empty", Vec::new(), "it is empty"),
        (
            "not an archive",
            b"kubernetes".repeat(100),
            "it is not a tar archive",
        ),
        (
            "leads out",
            with("../evil", file, ""),
            "entry `../evil` leads out of the package",
        ),
        (
            "leads out later",
            with("conf/../../evil", file, ""),
            "`conf/../../evil` leads out",
        ),
        (
            "absolute",
            with("/etc/evil", file, ""),
            "`/etc/evil` has an absolute name",
        ),
        (
            "link out",
            with("conf/up", symlink, "../../etc"),
            "symlink `conf/up` points outside",
        ),
        (
            "absolute link",
            with("conf/p", symlink, "/etc/passwd"),
            "symlink `conf/p` points outside",
        ),
        (
            "hard link out",
            with("conf/p", hard, "../../etc/passwd"),
            "`../../etc/passwd` leads out",
        ),
        (
            "below a link",
            {
                let mut raw = Raw::whole();
                raw.add("conf/down", symlink, "../bin", b"");
                raw.add("conf/down/x", file, "", b"x");
                raw.bytes()
            },
            "entry `conf/down/x` lies below `conf/down`, which is not a folder",
        ),
    ];
    let work = Work::new();
    for (what, bytes, words) in cases {
        fs::write(work.path("kube.tar"), bytes).expect("writing the package");
        let mut runs = vec![work.run(&["package", "--package", "kube.tar"])];
        let mut names = vec!["cluster.yaml", "kube.tar"];
        if is_root() {
            static_programs(&work);
            names.push("programs");
            let all = [
                "-t",
                "cluster.yaml",
                "-p",
                "kube.tar",
                "--programs",
                "programs",
            ];
            runs.push(work.run(&all));
        }
        for output in runs {
            let printed = refused(
                &work,
                &output,
                &names[..2 + usize::from(work.path("programs").exists())],
            );
            assert!(
                printed.starts_with("imagegen: opening the package `kube.tar`: ")
                    && printed.contains(words),
                "{what}: {printed}"
            );
        }
    }
}

#[test]
fn broken_image_archive_is_named_by_its_path_in_the_package() {
    if !is_root() {
        return skip("building images needs root, which is checked first");
    }
    let work = Work::new();
    static_programs(&work);
    let images = package::images();
    let rows: [(&str, Vec<u8>, &str); 2] = [
        (
            "images/all.tar",
            images[..images.len() / 2].to_vec(),
            "opening the image archive `images/all.tar` of the package: it is cut off",
        ),
        (
            "images/all.tar",
            images
                .iter()
                .copied()
                .chain([0; 512])
                .map(|b| b ^ 1)
                .collect(),
            "opening the image archive `images/all.tar` of the package: ",
        ),
    ];
    for (name, bytes, words) in rows {
        package::folder(&work.path("kube"), &[(name, &bytes)]);
        let output = work
            .image(&["-p", "kube"])
            .output()
            .expect("running imagegen");
        // Nothing is built before the package is checked.
        let printed = refused(&work, &output, &["cluster.yaml", "kube", "programs"]);
        assert!(
            printed.contains(words) && !printed.contains("staging"),
            "{printed}"
        );
    }
}
