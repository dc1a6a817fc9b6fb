//! Files and modes, second runs, invalid topologies.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::work::{PROD, Work, imagegen_for_all, stderr};

#[test]
fn outputs_have_modes_and_digests() {
    let work = Work::new();
    work.userdata();
    let state = work.state("prod");
    for (path, (bytes, mode, ..)) in &state {
        let secret = path.starts_with("pki")
            || path.ends_with("admin.conf")
            || path.ends_with("user-data")
            || path.ends_with("seed.img");
        assert_eq!(
            *mode,
            if secret { 0o600 } else { 0o644 },
            "{}",
            path.display()
        );
        let text = String::from_utf8_lossy(bytes);
        assert!(
            secret || !text.contains("PRIVATE KEY"),
            "{} is open and holds a key",
            path.display()
        );
    }
    for host in ["m0", "m1", "m2", "n0"] {
        for file in ["user-data", "meta-data", "network-config", "seed.img"] {
            assert!(
                state.contains_key(&Path::new("hosts").join(host).join(file)),
                "{host}/{file} is missing"
            );
        }
    }
    let manifest: serde_json::Value =
        serde_json::from_slice(&state[Path::new("manifest.json")].0).expect("JSON");
    let outputs = manifest["outputs"].as_object().expect("outputs");
    assert_eq!(
        outputs.len(),
        state.len() - 1,
        "every file but the manifest is in the manifest"
    );
    for (path, digest) in outputs {
        let found = Sha256::digest(&state[Path::new(path)].0);
        let found: String = found.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(digest, &format!("sha256:{found}"), "{path}");
    }
}

#[test]
fn empty_taints_of_a_master_reach_its_document() {
    let work = Work::new();
    work.topology(&PROD.replace(
        "mac: \"52:54:00:00:07:11\" }",
        "mac: \"52:54:00:00:07:11\", taints: [] }",
    ));
    work.userdata();
    let taints = |host| {
        let document = work.document(host);
        document.node.expect("a node file").taints
    };
    assert_eq!(taints("m0"), None, "kubeadm taints the control plane");
    assert_eq!(taints("m1"), Some(Vec::new()));
}

#[test]
fn second_run_writes_nothing() {
    let work = Work::new();
    assert!(work.userdata().contains("made documents"));
    let before = work.state("prod");
    assert!(work.userdata().contains("nothing to do"));
    assert!(work.state("prod") == before, "a file was written again");
}

#[test]
fn changed_host_changes_only_its_files() {
    let work = Work::new();
    work.userdata();
    let before = work.state("prod");
    work.topology(&PROD.replace("disk: ssd", "disk: hdd"));
    work.userdata();
    let after = work.state("prod");
    let changed: Vec<_> = after
        .iter()
        .filter(|(path, state)| before.get(*path) != Some(state))
        .map(|(p, _)| p)
        .collect();
    let expected = [
        "hosts/n0/seed.img",
        "hosts/n0/user-data",
        "manifest.json",
        // Its document has a new number.
        "pki/documents.json",
    ];
    assert_eq!(
        changed,
        expected.map(Path::new),
        "only the node whose label changed"
    );
}

#[test]
fn removed_host_is_deleted_except_for_user_files() {
    let work = Work::new();
    work.userdata();
    let ca = fs::read(work.path("prod/pki/ca.crt")).expect("the CA");
    fs::write(work.path("prod/hosts/n0/notes"), "rack 4").expect("writing notes");
    work.topology(
        PROD.lines()
            .filter(|line| !line.contains("name: n0"))
            .collect::<Vec<_>>()
            .join("\n")
            .as_str(),
    );
    work.userdata();
    let left: Vec<_> = work.state("prod/hosts/n0").into_keys().collect();
    assert_eq!(left, [Path::new("notes")]);
    assert_eq!(fs::read(work.path("prod/pki/ca.crt")).expect("the CA"), ca);
}

#[test]
fn broken_ca_is_an_error_and_stays() {
    let work = Work::new();
    work.userdata();
    let other = Work::new();
    other.userdata();
    let good = fs::read(work.path("prod/pki/ca.crt")).expect("the CA");
    let foreign = fs::read(other.path("prod/pki/ca.crt")).expect("another authority");
    let cut = &good[..good.len() / 2];
    let cases: [(&str, Option<&[u8]>, &str); 4] = [
        ("ca.crt", Some(&foreign), "do not belong together"),
        ("ca.crt", Some(cut), "no certificate in PEM"),
        ("ca.key", None, "`prod/pki/ca.key` is not"),
        ("sa.key", Some(b"rubbish"), "not a private key in PEM"),
    ];
    for (file, bytes, message) in cases {
        let path = work.path("prod/pki").join(file);
        let original = fs::read(&path).expect("a file of the PKI");
        match bytes {
            Some(bytes) => fs::write(&path, bytes).expect("breaking it"),
            None => fs::remove_file(&path).expect("removing it"),
        }
        let before = work.state("prod");
        let output = work.run(&["userdata", "-t", "cluster.yaml"]);
        assert_eq!(output.status.code(), Some(1), "{file}");
        assert!(
            stderr(&output).contains(message),
            "{file}: {}",
            stderr(&output)
        );
        assert!(
            work.state("prod") == before,
            "{file}: something was written"
        );
        fs::write(&path, original).expect("mending it");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mending its mode");
    }
    assert!(work.userdata().contains("nothing to do"));
}

#[test]
fn invalid_topology_leaves_nothing() {
    let work = Work::new();
    let cases: [(&str, i32, &str); 6] = [
        (
            "apiVersion: firstlight/v1\nkind: Cluster\nname: x\nhost: []\n",
            3,
            "cluster.yaml:4:1: error: unknown key `host`",
        ),
        (
            &PROD.replace("name: m1", "name: m0"),
            3,
            "cluster.yaml:19:11: error: `m0` in line 18 already has the name `m0`",
        ),
        (
            &PROD.replace("192.168.7.20/24", "192.168.7.300/24"),
            3,
            "cluster.yaml:21:38: error: ",
        ),
        ("hosts: [", 3, "cluster.yaml:"),
        ("", 3, "cluster.yaml"),
        (
            &PROD.replace("role: master", "role: node"),
            3,
            "there is no master",
        ),
    ];
    for (text, status, message) in cases {
        work.topology(text);
        for command in [&["validate"][..], &["plan"], &["userdata"], &["image"], &[]] {
            let output = work.run(&[command, &["-t", "cluster.yaml"]].concat());
            assert_eq!(
                output.status.code(),
                Some(status),
                "{text:?}: {}",
                stderr(&output)
            );
            assert!(
                stderr(&output).contains(message),
                "{text:?}: {}",
                stderr(&output)
            );
            assert_eq!(work.names(), ["cluster.yaml"], "{text:?}");
        }
    }
    let output = work.run(&["userdata", "-t", "missing.yaml"]);
    assert_eq!(
        (output.status.code(), work.names()),
        (Some(1), vec!["cluster.yaml".to_owned()])
    );
    assert!(
        stderr(&output).contains("reading the topology `missing.yaml`"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn missing_topology_is_wrong_usage() {
    let work = Work::new();
    for args in [&["userdata"][..], &[], &["no-such-command"]] {
        assert_eq!(work.run(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn help_fits_eighty_columns() {
    let work = Work::new();
    for command in [
        "",
        "validate",
        "plan",
        "userdata",
        "image",
        "package",
        "schema",
        "completions",
        "man",
    ] {
        let args: Vec<&str> = [command, "--help"]
            .into_iter()
            .filter(|arg| !arg.is_empty())
            .collect();
        let help = String::from_utf8(work.run(&args).stdout).expect("text");
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "`{command}`: {line}");
        }
    }
}

#[test]
fn schema_names_every_key_and_plan_every_host() {
    let work = Work::new();
    let schema: serde_json::Value =
        serde_json::from_slice(&work.run(&["schema"]).stdout).expect("JSON");
    for key in [
        "apiVersion",
        "kind",
        "name",
        "package",
        "apiserver",
        "network",
        "certificates",
        "hosts",
        "image",
    ] {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
    let plan = work.run(&["plan", "--json", "-t", "cluster.yaml"]).stdout;
    let plan: serde_json::Value = serde_json::from_slice(&plan).expect("JSON");
    let roles: Vec<_> = plan["hosts"]
        .as_array()
        .expect("hosts")
        .iter()
        .map(|host| host["role"].clone())
        .collect();
    assert_eq!(roles, ["master0", "master", "master", "node"]);
    assert_eq!(
        plan["hosts"][3]["secrets"],
        serde_json::json!(["kubelet.conf", "kubelet-server.key", "status.key"])
    );
    assert_eq!(work.names(), ["cluster.yaml"], "plan writes nothing");
}

/// Documents without keys and certificates, which differ in each run.
#[test]
fn documents_match_snapshots() {
    let work = Work::new();
    work.userdata();
    for host in ["m0", "m1", "n0"] {
        let mut text = String::new();
        for file in ["meta-data", "network-config", "user-data"] {
            let content =
                fs::read_to_string(work.path(&format!("prod/hosts/{host}/{file}"))).expect("text");
            text.push_str(&format!("## {file}\n{}", redact(&content)));
        }
        insta::assert_snapshot!(format!("document_{host}"), text);
    }
}

fn redact(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in text.lines() {
        if line.contains("-----BEGIN") {
            inside = true;
            out.push_str(&format!("{line} …\n"));
        } else if inside {
            inside = !line.contains("-----END");
        } else if let Some((key, _)) = line.split_once("-data: ") {
            out.push_str(&format!("{key}-data: …\n"));
        } else if let Some((key, id)) = line.split_once("instance-id: ") {
            let stable = id.rsplit_once('-').map_or(id, |(stable, _)| stable);
            out.push_str(&format!("{key}instance-id: {stable}-…\n"));
        } else if let Some((claims, _)) = line.split_once(" key=") {
            out.push_str(&format!("{claims} key=… signature=…\n"));
        } else if let Some((text, _)) = line.split_once("\"secret\":\"") {
            out.push_str(&format!("{text}\"secret\":…\n"));
        } else {
            out.push_str(&format!("{line}\n"));
        }
    }
    out
}

#[test]
fn image_without_root_is_refused() {
    use std::os::unix::process::CommandExt as _;
    let work = Work::new();
    let mut command = std::process::Command::new(imagegen_for_all(&work));
    command
        .args(["--topology", "cluster.yaml"])
        .current_dir(work.path(""));
    // Root switches to nobody; other users are unprivileged already.
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let output = command.output().expect("running imagegen");
    let printed = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(
        printed.contains("needs root") && printed.contains("sudo"),
        "{printed}"
    );
    assert!(!work.path("prod").exists());
}
