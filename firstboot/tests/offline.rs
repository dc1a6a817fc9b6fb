//! The binary on a directory: set, again, refused.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

mod common;

use std::path::Path;

use assert_cmd::Command;

use common::{fixture, image_root, tree};

fn firstboot(root: &Path, seed: &str) -> Command {
    let mut command = Command::cargo_bin("firstboot").unwrap();
    command
        .arg("--root")
        .arg(root)
        .arg("--seed")
        .arg(fixture(&format!("sources/{seed}")));
    command
}

/// What is said of a document that is refused.
fn refusal(root: &Path, seed: &str) -> String {
    let assert = firstboot(root, seed).assert().code(3);
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

#[test]
fn second_run_on_a_directory_writes_nothing() {
    let dir = image_root();
    firstboot(dir.path(), "alone").assert().success();
    let first = tree(dir.path());
    for (path, mode) in [
        ("etc/hostname", 0o644),
        ("etc/hosts", 0o644),
        ("etc/resolv.conf", 0o644),
        ("etc/kubernetes/pki/ca.key", 0o600),
        ("etc/firstlight/node.yaml", 0o644),
        ("var/lib/firstlight/kubeadm.yaml", 0o600),
        ("var/lib/firstlight/receipt.json", 0o644),
    ] {
        let found = first
            .get(Path::new(path))
            .unwrap_or_else(|| panic!("{path} is missing"));
        assert_eq!(found.0, mode, "{path}");
    }
    assert!(
        first
            .keys()
            .any(|path| path.starts_with("etc/systemd/network") && path.extension().is_some())
    );
    firstboot(dir.path(), "alone").assert().success();
    assert_eq!(tree(dir.path()), first);
}

#[test]
fn nothing_secret_is_printed() {
    let dir = image_root();
    let output = firstboot(dir.path(), "alone")
        .assert()
        .success()
        .get_output()
        .clone();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(
        said.contains("ca.key") && !said.contains("secret-canary"),
        "{said}"
    );
}

#[test]
fn broken_document_is_refused_and_writes_nothing() {
    let dir = image_root();
    let before = tree(dir.path());
    let said = refusal(dir.path(), "broken");
    assert!(
        said.contains("user-data:2:") && said.contains("hostnam"),
        "{said}"
    );
    assert!(!said.contains("secret-canary"), "{said}");
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn another_machines_document_is_refused_with_both_values() {
    let dir = image_root();
    let said = refusal(dir.path(), "stranger");
    assert!(
        said.contains("52:54:00:00:07:99") && said.contains("52:54:00:00:07:10"),
        "{said}"
    );
    assert!(!dir.path().join("etc").exists());
}

#[test]
fn status_before_the_first_run_is_an_error() {
    let dir = image_root();
    let output = Command::cargo_bin("firstboot")
        .unwrap()
        .args(["status", "--root"])
        .arg(dir.path())
        .assert()
        .code(1)
        .get_output()
        .clone();
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("has not run since this machine booted")
    );
}
