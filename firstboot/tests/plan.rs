//! The plan of each role: its steps by name, and when each step of the cluster is done.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

mod common;

use std::fs;

use assert_cmd::Command;
use firstboot::boot;
use firstboot::kubeadm::{marker, paths};
use firstboot::report::Reporter;
use firstboot::source::Seed;
use firstboot::step::Step;
use firstboot::system::files::{Attributes, Root};
use tempfile::TempDir;
use userdata::role::{MACHINE_STEPS, Role};

use common::{image_root, seed_of, tree};

const HOSTS: [(Role, &str, &str); 3] = [
    (Role::Master0, "m0", "192.168.7.10"),
    (Role::Master, "m1", "192.168.7.11"),
    (Role::Node, "n0", "192.168.7.20"),
];

/// What `--plan` prints for a host of this role; it writes nothing.
fn plan_of(role: Role) -> String {
    let dir = image_root();
    let (_, name, address) = HOSTS.into_iter().find(|host| host.0 == role).unwrap();
    let seed = seed_of(role.as_str(), name, address);
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
fn plan_of_master0() {
    insta::assert_snapshot!(plan_of(Role::Master0));
}

#[test]
fn plan_of_joining_master() {
    insta::assert_snapshot!(plan_of(Role::Master));
}

#[test]
fn plan_of_worker() {
    insta::assert_snapshot!(plan_of(Role::Node));
}

/// The steps of a host of this role, on a directory that has its CA certificate.
fn steps_of(role: Role) -> (TempDir, Root, Vec<Box<dyn Step>>) {
    let dir = image_root();
    let root = Root::new(dir.path());
    write(&root, paths::CA_CERTIFICATE);
    let (_, name, address) = HOSTS.into_iter().find(|host| host.0 == role).unwrap();
    let seed = seed_of(role.as_str(), name, address);
    let seed = Seed {
        origin: "seed".to_owned(),
        user_data: fs::read(seed.path().join("user-data")).unwrap(),
        meta_data: fs::read(seed.path().join("meta-data")).unwrap(),
        network_config: fs::read(seed.path().join("network-config")).ok(),
        vendor_data: None,
    };
    let (_, steps) = boot::prepare(&seed, &root).unwrap();
    (dir, root, steps)
}

fn write(root: &Root, path: &str) {
    root.write(path, b"", Attributes::mode(0o600)).unwrap();
}

/// The files that kubeadm writes on a host of this role.
fn write_kubeadm_files(root: &Root, role: Role) {
    for path in paths::KUBELET_FILES {
        write(root, path);
    }
    if role != Role::Node {
        for name in paths::STATIC_PODS {
            write(root, &paths::manifest(name));
        }
    }
}

fn step<'a>(steps: &'a [Box<dyn Step>], name: &str) -> &'a dyn Step {
    &**steps.iter().find(|step| step.name() == name).unwrap()
}

/// The kubeadm steps of a role, which only its last marker ends.
fn kubeadm_steps(role: Role) -> &'static [&'static str] {
    match role {
        Role::Master0 => &[
            "static-pods",
            "apiserver-ready",
            "node-registered",
            "init-finish",
        ],
        Role::Master => &[
            "kubelet-start",
            "etcd-member",
            "static-pods",
            "apiserver-ready",
            "node-registered",
            "join-finish",
        ],
        Role::Node => &["kubelet-start", "node-registered"],
    }
}

fn markers(role: Role) -> &'static [&'static str] {
    match role {
        Role::Master0 => &[marker::APISERVER_ANSWERED, marker::INITIALISED],
        Role::Master | Role::Node => &[marker::KUBELET_CONFIGURED, marker::JOINED],
    }
}

#[test]
fn plan_has_the_steps_of_its_role_each_once() {
    for (role, ..) in HOSTS {
        let (_dir, _, steps) = steps_of(role);
        let names: Vec<_> = steps.iter().map(|step| step.name()).collect();
        let expected: Vec<_> = role.steps().iter().map(|step| step.name).collect();
        let (machine, of_role) = names.split_at(names.len() - expected.len());
        assert_eq!(of_role, expected, "{role}");
        // Each machine step at most once, in order. Hooks come from the package and are in no list.
        let mut known = MACHINE_STEPS.iter().map(|step| step.name);
        for name in machine {
            assert!(known.any(|step| step == *name), "{role}: {name}");
        }
    }
}

/// The names of the steps for a seed with one text in its user-data replaced by another.
fn step_names(from: &str, to: &str) -> Vec<&'static str> {
    let dir = image_root();
    let root = Root::new(dir.path());
    let user_data = fs::read_to_string(common::fixture("sources/alone/user-data")).unwrap();
    assert!(user_data.contains(from), "{user_data}");
    let seed = Seed {
        origin: "seed".to_owned(),
        user_data: user_data.replace(from, to).into_bytes(),
        meta_data: Vec::new(),
        network_config: None,
        vendor_data: None,
    };
    let (_, steps) = boot::prepare(&seed, &root).unwrap();
    steps.iter().map(|step| step.name()).collect()
}

#[test]
fn ssh_server_starts_after_files_only_if_a_user_has_a_key() {
    let with_keys = step_names("ssh_authorized_keys:", "ssh_authorized_keys:");
    let at = |name| with_keys.iter().position(|step| *step == name);
    assert!(at("users") < at("files") && at("files") < at("ssh"));
    assert!(at("ssh") < at("kernel"));
    let without = step_names("ssh_authorized_keys:", "x-no-keys:");
    assert!(!without.contains(&"ssh") && !without.contains(&"users"));
}

#[test]
fn kubeadm_steps_are_done_with_the_last_marker() {
    for (role, ..) in HOSTS {
        let (_dir, root, steps) = steps_of(role);
        let assert_done = |expected: bool, when: &str| {
            for name in kubeadm_steps(role) {
                let done = step(&steps, name).is_done().unwrap();
                assert_eq!(done, expected, "{role}: {name} {when}");
            }
        };
        assert_done(false, "on a new host");
        // kubeadm does not replace files atomically: a power cut may have left any of them partial.
        write_kubeadm_files(&root, role);
        assert_done(false, "with files of an interrupted try");
        let (last, earlier) = markers(role).split_last().unwrap();
        for marker in earlier {
            marker::set(&root, marker).unwrap();
            assert_done(false, marker);
        }
        marker::set(&root, last).unwrap();
        assert_done(true, "with every marker");
        root.remove(paths::KUBELET_FILES[0]).unwrap();
        assert_done(false, "without a file of kubelet");
    }
}

#[test]
fn guard_is_done_before_the_other_init_steps() {
    let (_dir, root, steps) = steps_of(Role::Master0);
    assert!(!step(&steps, "init-guard").is_done().unwrap());
    marker::set(&root, marker::APISERVER_ANSWERED).unwrap();
    assert!(step(&steps, "init-guard").is_done().unwrap());
    assert!(!step(&steps, "static-pods").is_done().unwrap());
}

#[test]
fn kubeadm_steps_refuse_markers_of_another_cluster() {
    for (role, ..) in HOSTS {
        let (_dir, root, steps) = steps_of(role);
        write_kubeadm_files(&root, role);
        for marker in markers(role) {
            marker::set(&root, marker).unwrap();
        }
        let other = b"another authority";
        root.write(paths::CA_CERTIFICATE, other, Attributes::mode(0o600))
            .unwrap();
        for name in kubeadm_steps(role) {
            let error = step(&steps, name).is_done().unwrap_err().to_string();
            assert!(error.contains("another cluster"), "{name}: {error}");
        }
    }
}

#[test]
fn domain_is_local_while_the_hosts_file_says_so() {
    let (dir, root, steps) = steps_of(Role::Master);
    let local = step(&steps, "domain-local");
    assert!(!local.is_done().unwrap());
    let mut report = Reporter::silent(&root);
    step(&steps, "hosts").apply(&mut report).unwrap();
    assert!(local.is_done().unwrap());
    // While the host joins, the domain resolves to another control-plane host.
    let path = dir.path().join("etc/hosts");
    let own = fs::read_to_string(&path).unwrap();
    let joining = own.replace(
        "192.168.7.11 apiserver.cluster.local",
        "192.168.7.10 apiserver.cluster.local",
    );
    assert_ne!(joining, own);
    fs::write(&path, joining).unwrap();
    write_kubeadm_files(&root, Role::Master);
    for marker in markers(Role::Master) {
        marker::set(&root, marker).unwrap();
    }
    assert!(!local.is_done().unwrap());
    local.apply(&mut report).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), own);
}
