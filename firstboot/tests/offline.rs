//! The program on a directory: first run, second run, invalid documents.
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

/// The error for an invalid document.
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
fn secrets_are_not_printed() {
    let dir = image_root();
    let output = firstboot(dir.path(), "alone")
        .assert()
        .success()
        .get_output()
        .clone();
    let output_text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(
        output_text.contains("ca.key") && !output_text.contains("secret-canary"),
        "{output_text}"
    );
}

#[test]
fn invalid_document_writes_nothing() {
    let dir = image_root();
    let before = tree(dir.path());
    let output_text = refusal(dir.path(), "broken");
    assert!(
        output_text.contains("user-data:2:") && output_text.contains("hostnam"),
        "{output_text}"
    );
    assert!(!output_text.contains("secret-canary"), "{output_text}");
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn document_for_another_machine_shows_both_values() {
    let dir = image_root();
    let output_text = refusal(dir.path(), "stranger");
    assert!(
        output_text.contains("52:54:00:00:07:99") && output_text.contains("52:54:00:00:07:10"),
        "{output_text}"
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
