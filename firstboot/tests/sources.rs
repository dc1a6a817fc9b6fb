//! Folders as seeds: no host, one, several, two that match, one of another machine.

mod common;

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
