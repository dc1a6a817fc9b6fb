//! Who may log in: documents of the field, each with the result that cloud-init gives it.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

mod common;

use common::host::Host;

/// The last word of each key names it.
fn names(keys: &[String]) -> Vec<&str> {
    let last = keys.iter().map(|key| key.rsplit(' ').next().unwrap());
    last.collect()
}

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHkYbJm0gK5c2b3b4c5d6e7f8a9b0c1d2e3f4a5b6c7d";

#[test]
fn root_gets_the_keys_when_it_is_enabled() {
    let host = Host::new("keys-no-default-root-enabled");
    let run = host.boot();
    assert_eq!(names(&host.keys("root")), ["ops@example"]);
    assert!(!run.text.contains("allows no login"), "{}", run.text);
}

#[test]
fn keys_that_allow_no_login_are_named() {
    let host = Host::new("keys-without-default-user");
    let run = host.boot();
    assert_eq!(names(&host.keys("root")), ["ops@example"]);
    assert!(
        run.text
            .contains("user-data:8:5: warning: this SSH key allows no login"),
        "{}",
        run.text
    );
    host.document(
        "meta-data",
        &format!("public-keys: [{KEY} third@example]\n"),
    );
    let run = host.boot();
    assert!(
        run.text
            .contains("meta-data:1:1: warning: these SSH keys allow no login"),
        "{}",
        run.text
    );
}

#[test]
fn disabled_root_has_no_shell() {
    let host = Host::new("keys-read-not-used");
    let run = host.boot();
    assert_eq!(host.keys("root"), [""; 0]);
    assert!(run.text.contains("allows no login"), "{}", run.text);
    let user = "user: admin\ndisable_root: true\nssh_authorized_keys:\n";
    let host = Host::with(&format!("hostname: a\n{user}- {KEY} ops@example\n"));
    let run = host.boot();
    assert_eq!(names(&host.keys("admin")), ["ops@example"]);
    assert_eq!(host.keys("root"), [""; 0]);
    assert!(!run.text.contains("allows no login"), "{}", run.text);
    assert!(
        host.read("/etc/sudoers.d/90-firstlight-admin")
            .contains("NOPASSWD")
    );
}

#[test]
fn user_is_the_default_of_any_list() {
    let host = Host::with(&format!(
        "hostname: a\nuser: admin\nusers: [{{name: ops}}]\nssh_authorized_keys: [{KEY} x]\n"
    ));
    host.boot();
    assert_eq!(names(&host.keys("admin")), ["x"]);
    assert_eq!(host.keys("root"), [""; 0]);
}

#[test]
fn public_keys_of_every_shape_are_used() {
    let host = Host::new("meta-keys-list");
    host.document("user-data", "#cloud-config\nhostname: a\n");
    host.boot();
    assert_eq!(names(&host.keys("root")), ["ops@example"]);
    for shape in [
        "public-keys: {a: [KEY a, KEY b], c: KEY c}",
        "public_keys: {0: {openssh-key: KEY a}, 1: [KEY b, '', KEY c]}",
        "public-keys: [KEY a, KEY b, KEY c]",
        "public-keys: |\n  KEY a\n  KEY b\n  KEY c",
    ] {
        let host = Host::with("hostname: a\n");
        host.document("meta-data", &shape.replace("KEY", KEY));
        host.boot();
        assert_eq!(names(&host.keys("root")), ["a", "b", "c"], "{shape}");
    }
    let host = Host::with("hostname: a\nallow_public_ssh_keys: false\n");
    host.document("meta-data", &format!("public-keys: [{KEY} a]\n"));
    host.boot();
    assert_eq!(host.keys("root"), [""; 0]);
}

#[test]
fn network_in_meta_data_is_named() {
    let host = Host::new("meta-data-network");
    let run = host.boot();
    assert!(
        run.text
            .contains("meta-data:3:1: warning: `network-interfaces` in meta-data is not read")
            && run.text.contains("`network-config` (version 2)"),
        "{}",
        run.text
    );
}

#[test]
fn groups_are_made_with_users() {
    let plan = Host::new("groups-created").plan();
    assert_eq!(plan.status, 0, "{}", plan.text);
    let host = Host::with("hostname: a\ngroups: [docker, {admin: [ops]}]\n");
    let plan = host.plan();
    assert!(
        plan.text.contains("create groups: docker, admin"),
        "{}",
        plan.text
    );
    let host = Host::with("hostname: a\nusers: [{name: ops, groups: ['no group']}]\n");
    let run = host.run();
    assert_eq!(run.status, 3, "{}", run.text);
    assert!(
        run.text.contains("user-data:3:29: error: not a group name"),
        "{}",
        run.text
    );
}

#[test]
fn vendor_data_is_below_user_data() {
    let host = Host::new("vendor-data-only");
    host.boot();
    assert_eq!(names(&host.keys("root")), ["ops@example"]);
    let user_data = "#cloud-config\nntp: {enabled: true}\nwrite_files: [{path: /etc/a}]\n";
    host.document("user-data", user_data);
    let vendor_data = format!(
        "#cloud-config\nhostname: theirs\nntp: {{servers: [192.0.2.1]}}\nwrite_files: [{{path: \
         /etc/b}}]\nssh_authorized_keys: [{KEY} vendor]\n"
    );
    host.document("vendor-data", &vendor_data);
    let plan = host.plan();
    assert!(plan.text.contains("set hostname: theirs"), "{}", plan.text);
    assert!(
        plan.text.contains("set NTP servers: 192.0.2.1"),
        "{}",
        plan.text
    );
    host.boot();
    assert!(host.exists("/etc/a") && !host.exists("/etc/b"));
    assert_eq!(names(&host.keys("root")), ["vendor"]);
    host.document(
        "user-data",
        "#cloud-config\nhostname: a\nvendor_data: {enabled: false}\n",
    );
    host.boot();
    assert_eq!(host.keys("root"), [""; 0]);
}

#[test]
fn vendor_data_that_is_not_read_is_named() {
    let host = Host::new("vendor-data-only");
    host.document("vendor-data", "#!/bin/sh\necho hi\n");
    let run = host.boot();
    let notice = "vendor-data: warning: vendor-data is a script (`#!`); it is not read";
    assert!(run.text.contains(notice), "{}", run.text);
    host.document("vendor-data", "#cloud-config\nhostnam: a\n");
    let run = host.run();
    assert_eq!(run.status, 3, "{}", run.text);
    let error = "vendor-data:2:1: error: unknown key `hostnam`";
    assert!(run.text.contains(error), "{}", run.text);
    // Keys that allow no login are named where they stand.
    let keys = format!("#cloud-config\nssh_authorized_keys: [{KEY} vendor]\n");
    host.document("vendor-data", &keys);
    host.document("user-data", "#cloud-config\nhostname: a\nusers: []\n");
    let run = host.boot();
    let notice = "vendor-data:2:23: warning: this SSH key allows no login";
    assert!(run.text.contains(notice), "{}", run.text);
}

#[test]
fn user_that_cannot_be_made_changes_nothing() {
    for (users, message) in [
        (
            "[{name: a, uid: 7}]",
            "the uid 7 of user `a` is that of user `lp`",
        ),
        (
            "[{name: a, uid: 1007}, {name: b, uid: '1007'}]",
            "is that of user `a`",
        ),
        (
            "[{name: a, homedir: /usr/lib/a}]",
            "is on the read-only image",
        ),
    ] {
        let host = Host::with(&format!("hostname: a\nusers: {users}\n"));
        host.put(
            "/etc/passwd",
            "root:x:0:0::/root:/bin/sh\nlp:x:7:7::/:/bin/sh\n",
        );
        let run = host.run();
        assert_eq!(run.status, 3, "{users}: {}", run.text);
        assert!(run.text.contains(message), "{users}: {}", run.text);
        assert!(!host.exists("/etc/hostname"), "{users}");
    }
    // A user that is there keeps its id.
    let host = Host::with("hostname: a\nusers: [{name: lp, uid: 8, homedir: /usr/lib/lp}]\n");
    host.put("/etc/passwd", "lp:x:7:7::/:/bin/sh\n");
    host.boot();
}

#[test]
fn sshd_takes_no_password_when_the_document_says_so() {
    let config = "/etc/ssh/sshd_config.d/10-firstlight.conf";
    for (line, expected) in [("ssh_pwauth: false", true), ("ssh_pwauth: true", false)] {
        let host = Host::with(&format!(
            "hostname: a\n{line}\nssh_authorized_keys: [{KEY} x]\n"
        ));
        host.boot();
        let forbids = host.read(config).contains("\nPasswordAuthentication no\n");
        assert_eq!(forbids, expected, "{line}");
    }
}

#[test]
fn sshd_takes_passwords_only_when_the_document_says_so() {
    let config = "/etc/ssh/sshd_config.d/10-firstlight.conf";
    let host = Host::with("hostname: a\npassword: hunter2\nchpasswd: {expire: false}\n");
    host.boot();
    assert!(!host.exists(config), "no key and no password over SSH");
    let host = Host::with("hostname: a\npassword: hunter2\nssh_pwauth: true\n");
    let run = host.boot();
    assert!(host.read(config).contains("\nPasswordAuthentication yes\n"));
    assert!(!run.text.contains("hunter2"), "{}", run.text);
}

#[test]
fn host_keys_of_the_document_are_used() {
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\\nhunter2\\n-----END OPENSSH PRIVATE KEY-----";
    let host = Host::with(&format!(
        "hostname: a\nssh_authorized_keys: [{KEY} x]\nssh_keys:\n  ed25519_private: \"{key}\"\n  \
         ed25519_public: ssh-ed25519 AAAA host\n"
    ));
    let run = host.boot();
    assert!(!run.text.contains("hunter2"), "{}", run.text);
    let private = host.root.path().join("etc/ssh/ssh_host_ed25519_key");
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(private).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        host.read("/etc/ssh/ssh_host_ed25519_key.pub"),
        "ssh-ed25519 AAAA host\n"
    );
    let config = host.read("/etc/ssh/sshd_config.d/10-firstlight.conf");
    assert!(config.contains("HostKey /etc/ssh/ssh_host_ed25519_key\n"));
    for (keys, message) in [
        (
            "rsa_privat: x",
            "user-data:3:12: error: `rsa_privat` is no host key",
        ),
        (
            "rsa_private: ssh-rsa AA",
            "not the private part of an SSH host key",
        ),
    ] {
        let run = Host::with(&format!("hostname: a\nssh_keys: {{{keys}}}\n")).run();
        assert_eq!(run.status, 3, "{}", run.text);
        assert!(run.text.contains(message), "{}", run.text);
    }
}

#[test]
fn password_of_a_user_who_does_not_exist_changes_nothing() {
    let host = Host::with("hostname: a\nchpasswd: {users: [{name: ops, type: RANDOM}]}\n");
    host.put("/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    let run = host.run();
    assert_eq!(run.status, 3, "{}", run.text);
    assert!(
        run.text.contains("user `ops` does not exist"),
        "{}",
        run.text
    );
    assert!(!host.exists("/etc/hostname"));
}
