//! The binary on a directory: set, again, refused.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

use common::{fixture, image_root};
use userdata::role::{MACHINE_STEPS, Role};

/// Path, mode, inode, bytes of everything below.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, u64, Vec<u8>)> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                folders.push(path.clone());
            }
            let bytes = if meta.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            found.insert(
                path.strip_prefix(root).unwrap().to_owned(),
                (meta.mode() & 0o7777, meta.ino(), bytes),
            );
        }
    }
    found
}

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
fn a_plan_is_printed_and_nothing_is_written() {
    let dir = image_root();
    let before = tree(dir.path());
    let output = firstboot(dir.path(), "alone")
        .arg("--plan")
        .assert()
        .success()
        .get_output()
        .clone();
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
    assert_eq!(tree(dir.path()), before);
}

/// The plan for the document of `alone`, as another host of its cluster with this role.
fn plan_of(role: &str, name: &str, address: &str) -> String {
    let dir = image_root();
    let seed = tempfile::tempdir().unwrap();
    let user_data = fs::read_to_string(fixture("sources/alone/user-data")).unwrap();
    let node = fs::read_to_string(fixture("node.yaml"))
        .unwrap()
        .replace("role: master0", &format!("role: {role}"))
        .replace("name: m0\n", &format!("name: {name}\n"))
        .replace("192.168.7.10/24", &format!("{address}/24"));
    let indented: String = node.lines().map(|line| format!("    {line}\n")).collect();
    let (head, rest) = user_data.split_once("  encoding: b64\n").unwrap();
    let tail = rest.split_once('\n').unwrap().1;
    let user_data = format!("{head}  content: |\n{indented}{tail}")
        .replace("hostname: m0", &format!("hostname: {name}"))
        .replace("m0.prod", &format!("{name}.prod"));
    fs::write(seed.path().join("user-data"), user_data).unwrap();
    fs::write(
        seed.path().join("meta-data"),
        format!("instance-id: {name}\n"),
    )
    .unwrap();
    let before = tree(dir.path());
    let mut command = Command::cargo_bin("firstboot").unwrap();
    let output = command
        .arg("--root")
        .arg(dir.path())
        .arg("--seed")
        .arg(seed.path())
        .arg("--plan")
        .assert()
        .success()
        .get_output()
        .clone();
    assert_eq!(tree(dir.path()), before);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_plan_of_a_master_that_joins() {
    insta::assert_snapshot!(plan_of("master", "m1", "192.168.7.11"));
}

#[test]
fn the_plan_of_a_node() {
    insta::assert_snapshot!(plan_of("node", "n0", "192.168.7.20"));
}

#[test]
fn status_before_the_first_run_says_so() {
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
            .contains("has not run since this machine was switched on")
    );
}

/// The names in the second column of a printed plan.
fn step_names(plan: &str) -> Vec<&str> {
    plan.lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect()
}

#[test]
fn plan_has_the_steps_that_userdata_names_for_the_role() {
    for (role, name, address) in [
        (Role::Master0, "m0", "192.168.7.10"),
        (Role::Master, "m1", "192.168.7.11"),
        (Role::Node, "n0", "192.168.7.20"),
    ] {
        let plan = plan_of(role.as_str(), name, address);
        let names = step_names(&plan);
        let named: Vec<_> = role.steps().iter().map(|step| step.name).collect();
        let (machine, of_role) = names.split_at(names.len() - named.len());
        assert_eq!(of_role, named, "{role}");
        let mut machine = machine.iter();
        // Hooks come from the package, and are no part of a role.
        let known = MACHINE_STEPS.iter().map(|step| step.name);
        let known: Vec<_> = known.chain(["before-role"]).collect();
        assert!(machine.all(|step| known.contains(step)), "{role}: {plan}");
    }
}
