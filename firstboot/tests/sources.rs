//! Folders as seeds: no host, one, several, two that match, one of another machine.

#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use firstboot::source::directory::Directory;
use firstboot::source::{Source, SourceResult};
use firstboot::system::files::Root;
use firstboot::system::machine::Identity;

use common::{fixture, image_root};

fn read(seed: &str) -> anyhow::Result<SourceResult> {
    let root = image_root();
    let machine = Identity::read(&Root::new(root.path())).unwrap();
    Directory(fixture(&format!("sources/{seed}"))).read(&machine)
}

fn refusal(seed: &str) -> String {
    format!("{:#}", read(seed).unwrap_err())
}

#[test]
fn seed_of_one_host_is_found() {
    let SourceResult::Found(seed) = read("alone").unwrap() else {
        panic!("not found")
    };
    assert!(seed.user_data.starts_with(b"#cloud-config\n"));
    assert!(
        String::from_utf8(seed.network_config.unwrap())
            .unwrap()
            .contains("192.168.7.10/24")
    );
}

#[test]
fn host_with_the_mac_of_the_machine_is_chosen() {
    let SourceResult::Found(seed) = read("several").unwrap() else {
        panic!("not found")
    };
    assert!(seed.origin.ends_with("hosts/m0"), "{}", seed.origin);
}

#[test]
fn folder_without_user_data_is_not_found() {
    let SourceResult::NotFound(reason) = read("empty").unwrap() else {
        panic!("found")
    };
    assert!(reason.ends_with("has no `user-data`"), "{reason}");
}

#[test]
fn two_matching_hosts_are_an_error_that_lists_them() {
    assert!(
        refusal("twins").contains("2 hosts match this machine: a, b;"),
        "{}",
        refusal("twins")
    );
}

#[test]
fn mismatch_names_both_values() {
    let error = refusal("stranger");
    assert!(
        error.contains("it matches the MAC 52:54:00:00:07:99; this machine has eth0 52:54:00:00:07:10, serial SN-1"),
        "{error}"
    );
}

#[test]
fn user_data_beside_hosts_is_an_error() {
    assert!(
        refusal("both").contains("has both `user-data` and a `hosts` folder"),
        "{}",
        refusal("both")
    );
}

#[test]
fn machine_identity_comes_from_sysfs() {
    let root = image_root();
    let machine = Identity::read(&Root::new(root.path())).unwrap();
    assert_eq!(
        machine.to_string(),
        "eth0 52:54:00:00:07:10, serial SN-1, uuid 00112233-4455-6677-8899-aabbccddeeff"
    );
}

/// The error of a seed in which `arrange` puts something.
fn refusal_of(arrange: impl FnOnce(&Path)) -> String {
    let seed = tempfile::tempdir().unwrap();
    arrange(seed.path());
    let error = Directory(seed.path().to_owned()).read(&Identity::default());
    let printed = format!("{:#}", error.unwrap_err());
    printed.replace(&seed.path().display().to_string(), "SEED")
}

#[test]
fn only_regular_files_are_read() {
    let document = |at: &Path| fs::write(at.join("user-data"), "#cloud-config\n").unwrap();
    let pipe = |path: &Path| {
        let made = Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success());
    };
    assert_eq!(
        refusal_of(|seed| pipe(&seed.join("user-data"))),
        "SEED/user-data: is a pipe; a seed has regular files"
    );
    assert_eq!(
        refusal_of(|seed| symlink("/etc/hostname", seed.join("user-data")).unwrap()),
        "SEED/user-data: is a symbolic link; put the file itself into the seed"
    );
    assert_eq!(
        refusal_of(|seed| {
            document(seed);
            symlink("user-data", seed.join("vendor-data")).unwrap();
        }),
        "SEED/vendor-data: is a symbolic link; put the file itself into the seed"
    );
    assert_eq!(
        refusal_of(|seed| {
            document(seed);
            UnixListener::bind(seed.join("meta-data")).unwrap();
        }),
        "SEED/meta-data: is a socket; a seed has regular files"
    );
    assert_eq!(
        refusal_of(|seed| {
            document(seed);
            fs::create_dir(seed.join("network-config")).unwrap();
        }),
        "SEED/network-config: is a folder; a seed has regular files"
    );
    // Of several hosts.
    assert_eq!(
        refusal_of(|seed| symlink("/etc", seed.join("hosts")).unwrap()),
        "SEED/hosts: is a symbolic link; put the file itself into the seed"
    );
    assert_eq!(
        refusal_of(|seed| {
            fs::create_dir(seed.join("hosts")).unwrap();
            symlink("/etc", seed.join("hosts/m0")).unwrap();
        }),
        "SEED/hosts/m0: is a symbolic link; put the file itself into the seed"
    );
    assert_eq!(
        refusal_of(|seed| {
            let file = fs::File::create(seed.join("user-data")).unwrap();
            file.set_len(5 << 20).unwrap();
        }),
        "SEED/user-data: is larger than 4 MiB"
    );
}
