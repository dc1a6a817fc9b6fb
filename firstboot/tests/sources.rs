//! Folders as seeds: none, one, several, twins, somebody else's.

mod common;

use firstboot::source::directory::Directory;
use firstboot::source::{Look, Source};
use firstboot::system::files::Root;
use firstboot::system::machine::Identity;

use common::{fixture, image_root};

fn read(seed: &str) -> anyhow::Result<Look> {
    let root = image_root();
    let machine = Identity::read(&Root::new(root.path())).unwrap();
    Directory(fixture(&format!("sources/{seed}"))).read(&machine)
}

fn refusal(seed: &str) -> String {
    format!("{:#}", read(seed).unwrap_err())
}

#[test]
fn one_hosts_seed_is_found() {
    let Look::Found(seed) = read("alone").unwrap() else {
        panic!("nothing")
    };
    assert!(seed.user_data.starts_with(b"#cloud-config\n"));
    assert!(
        String::from_utf8(seed.network_config.unwrap())
            .unwrap()
            .contains("192.168.7.10/24")
    );
}

#[test]
fn of_several_hosts_the_one_with_our_mac_is_taken() {
    let Look::Found(seed) = read("several").unwrap() else {
        panic!("nothing")
    };
    assert!(seed.origin.ends_with("hosts/m0"), "{}", seed.origin);
}

#[test]
fn a_folder_without_user_data_is_nothing() {
    let Look::Nothing(reason) = read("empty").unwrap() else {
        panic!("found")
    };
    assert!(reason.ends_with("holds no `user-data`"), "{reason}");
}

#[test]
fn two_hosts_that_both_match_are_an_error_that_lists_them() {
    assert!(
        refusal("twins").contains("2 hosts are this machine: a, b;"),
        "{}",
        refusal("twins")
    );
}

#[test]
fn a_match_that_does_not_fit_names_both_values() {
    let error = refusal("stranger");
    assert!(
        error.contains("it wants the MAC 52:54:00:00:07:99; this machine has eth0 52:54:00:00:07:10, serial SN-1"),
        "{error}"
    );
}

#[test]
fn a_seed_of_one_host_and_of_several_at_once_is_an_error() {
    assert!(
        refusal("both").contains("one host's seed or several hosts'"),
        "{}",
        refusal("both")
    );
}

#[test]
fn the_machine_is_read_from_sysfs() {
    let root = image_root();
    let machine = Identity::read(&Root::new(root.path())).unwrap();
    assert_eq!(
        machine.to_string(),
        "eth0 52:54:00:00:07:10, serial SN-1, uuid 00112233-4455-6677-8899-aabbccddeeff"
    );
}
