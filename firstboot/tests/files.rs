//! Files, host names and hosts: documents of the field, each with the result of cloud-init.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

mod common;

use std::fs;

use common::host::Host;

#[test]
fn lines_are_appended_once_whatever_the_file_holds() {
    let host = Host::new("append-commented");
    host.put("/etc/sysctl.conf", "#net.ipv4.ip_forward=1\n");
    host.put(
        "/etc/ssh/sshd_config",
        "# Debian's\n#PermitRootLogin prohibit-password\n",
    );
    for _ in 0..2 {
        host.boot();
        assert_eq!(
            host.read("/etc/sysctl.conf"),
            "#net.ipv4.ip_forward=1\nnet.ipv4.ip_forward=1\n"
        );
        assert!(
            host.read("/etc/ssh/sshd_config")
                .ends_with("\nPermitRootLogin prohibit-password\nMaxAuthTries 6\n")
        );
    }
    // What a person removes is not appended again; a new line of the document is.
    host.put("/etc/sysctl.conf", "");
    host.boot();
    assert_eq!(host.read("/etc/sysctl.conf"), "");
    let user_data = fs::read_to_string(host.seed.path().join("user-data")).unwrap();
    let more = "  - {path: /etc/sysctl.conf, append: true, content: \"vm.swappiness=0\\n\"}\n";
    host.document("user-data", &(user_data + more));
    host.boot();
    assert_eq!(host.read("/etc/sysctl.conf"), "vm.swappiness=0\n");
    // Another instance is another machine.
    host.document("meta-data", "instance-id: other\n");
    host.boot();
    assert_eq!(
        host.read("/etc/sysctl.conf"),
        "vm.swappiness=0\nnet.ipv4.ip_forward=1\nvm.swappiness=0\n"
    );
}

#[test]
fn entries_of_one_file_apply_in_order() {
    let host = Host::with(
        "hostname: a
write_files:
- {path: /etc/f, append: true, content: '1'}
- {path: /etc/f, content: '2'}
- {path: /etc/f, append: true, content: '3'}
- {path: /etc/f, append: true, content: '3'}
- {path: /etc/g, content: late, defer: true}
- {path: /etc/g, content: early}
",
    );
    host.put("/etc/f", "0");
    host.boot();
    assert_eq!(host.read("/etc/f"), "233");
    assert_eq!(host.read("/etc/g"), "late");
}

#[test]
fn files_that_are_changed_later_stay() {
    let host = Host::with(
        "hostname: a
write_files:
- {path: /etc/kubernetes/pki/apiserver.crt, content: first}
- {path: /etc/gone, content: first}
",
    );
    host.boot();
    host.put("/etc/kubernetes/pki/apiserver.crt", "renewed");
    fs::remove_file(host.root.path().join("etc/gone")).unwrap();
    host.boot();
    assert_eq!(host.read("/etc/kubernetes/pki/apiserver.crt"), "renewed");
    assert!(!host.exists("/etc/gone"));
}

#[test]
fn path_that_cannot_be_written_changes_nothing() {
    let host = Host::new("readonly-path");
    let run = host.run();
    assert_eq!(run.status, 3, "{}", run.text);
    assert!(
        run.text
            .contains("`/usr/local/bin/backup.sh` is on the read-only image"),
        "{}",
        run.text
    );
    assert!(!host.exists("/etc/hostname") && !host.exists("/etc/profile.d"));
    for (path, why) in [
        ("/lib/systemd/system/a.service", "is on the read-only image"),
        ("/proc/sys/vm/swappiness", "belongs to the kernel"),
        ("/etc/folder", "is a directory"),
        ("/etc/file/below", "which is no directory"),
    ] {
        let host = Host::with(&format!("hostname: a\nwrite_files: [{{path: {path}}}]\n"));
        host.put("/etc/folder/x", "");
        host.put("/etc/file", "");
        let run = host.run();
        assert_eq!(run.status, 3, "{path}: {}", run.text);
        assert!(run.text.contains(why), "{path}: {}", run.text);
        assert!(!host.exists("/etc/hostname"), "{path}");
    }
}

#[test]
fn owner_that_nobody_makes_changes_nothing() {
    let text = "hostname: a\nwrite_files: [{path: /etc/f, owner: 'app:app'}]\n";
    let host = Host::with(text);
    host.put("/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    let run = host.run();
    assert_eq!(run.status, 3, "{}", run.text);
    assert!(
        run.text.contains("user `app`, which does not exist"),
        "{}",
        run.text
    );
    let host = Host::with(&format!("{text}users: [{{name: app}}]\n"));
    host.put("/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    host.put("/etc/group", "root:x:0:\n");
    host.boot();
}

#[test]
fn hosts_file_keeps_the_lines_of_others() {
    let host = Host::new("hosts-append");
    host.put(
        "/etc/hosts",
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    );
    host.boot();
    let text = host.read("/etc/hosts");
    assert!(text.contains("\n127.0.1.1 vm20\n"), "{text}");
    assert!(text.ends_with("\n192.0.2.50 registry.internal\n"), "{text}");
    assert_eq!(text.matches("localhost").count(), 3, "{text}");
    // A command or a person adds a line.
    host.put(
        "/etc/hosts",
        &format!("192.0.2.51 above\n{text}192.0.2.52 below\n"),
    );
    host.boot();
    let later = host.read("/etc/hosts");
    assert!(
        later.ends_with("\n192.0.2.51 above\n192.0.2.50 registry.internal\n192.0.2.52 below\n"),
        "{later}"
    );
    host.boot();
    assert_eq!(host.read("/etc/hosts"), later);
}

#[test]
fn replaced_hosts_file_names_its_host_itself() {
    let files = "write_files: [{path: /etc/hosts, content: \"192.0.2.7 vm20\\n\"}]\n";
    let host = Host::with(&format!("hostname: vm20\n{files}"));
    for _ in 0..2 {
        host.boot();
        let text = host.read("/etc/hosts");
        assert!(text.ends_with("\n192.0.2.7 vm20\n"), "{text}");
        assert!(
            !text.contains("127.0.1.1") && text.contains("127.0.0.1 localhost"),
            "{text}"
        );
    }
}

#[test]
fn hosts_file_that_nobody_manages_stays() {
    let host = Host::new("keys-read-not-used");
    host.put("/etc/hosts", "192.0.2.1 own\n");
    host.put("/etc/hostname", "own\n");
    host.boot();
    assert_eq!(host.read("/etc/hosts"), "192.0.2.1 own\n");
    assert_eq!(host.read("/etc/hostname"), "own\n");
    let text = "hostname: a\nmanage_etc_hosts: false\n";
    let host = Host::with(&format!(
        "{text}write_files: [{{path: /etc/hosts, append: true, content: x}}]\n"
    ));
    host.boot();
    assert_eq!(host.read("/etc/hosts"), "x");
}

#[test]
fn host_name_is_set_once() {
    let host = Host::with("hostname: a\n");
    host.boot();
    assert_eq!(host.read("/etc/hostname"), "a\n");
    host.put("/etc/hostname", "by-hand\n");
    host.boot();
    assert_eq!(host.read("/etc/hostname"), "by-hand\n");
    host.document("user-data", "#cloud-config\nhostname: b\n");
    host.boot();
    assert_eq!(host.read("/etc/hostname"), "b\n");
    let host = Host::with("hostname: a\ncreate_hostname_file: false\n");
    host.boot();
    assert!(!host.exists("/etc/hostname"));
}

#[test]
fn role_keeps_its_name_and_its_table() {
    let seed = common::seed_of("node", "n0", "192.168.7.20");
    let user_data = fs::read_to_string(seed.path().join("user-data")).unwrap();
    let with = |line: &str| {
        let host = Host::with("");
        let first = format!("#cloud-config\n{line}\n");
        host.document(
            "user-data",
            &user_data.replacen("#cloud-config\n", &first, 1),
        );
        host.run()
    };
    let run = with("preserve_hostname: true");
    assert_eq!(run.status, 3, "{}", run.text);
    assert!(
        run.text
            .contains("user-data:2:1: error: a host with a role"),
        "{}",
        run.text
    );
    let run = with("manage_etc_hosts: false");
    assert_eq!(run.status, 0, "{}", run.text);
    assert!(
        run.text
            .contains("user-data:2:1: warning: `manage_etc_hosts: false`"),
        "{}",
        run.text
    );
}

#[test]
fn certificate_and_key_change_together() {
    let document = |certificate: &str| {
        format!(
            "#cloud-config\nhostname: a\nwrite_files:\n\
             - {{path: /etc/pki/a.crt, content: {certificate}}}\n\
             - {{path: /etc/pki/a.key, content: key}}\n\
             - {{path: /etc/pki/b.key, content: key}}\n"
        )
    };
    let host = Host::with("");
    host.document("user-data", &document("first"));
    host.boot();
    for file in ["a.crt", "a.key", "b.key"] {
        host.put(&format!("/etc/pki/{file}"), "renewed");
    }
    host.document("user-data", &document("second"));
    host.boot();
    assert_eq!(host.read("/etc/pki/a.crt"), "second");
    assert_eq!(host.read("/etc/pki/a.key"), "key");
    assert_eq!(host.read("/etc/pki/b.key"), "renewed");
}

#[test]
fn no_step_overwrites_what_the_document_writes() {
    let network =
        "version: 2\nethernets: {e: {dhcp4: true, nameservers: {addresses: [192.0.2.1]}}}\n";
    let host = Host::with(
        "hostname: a\nwrite_files: [{path: /etc/resolv.conf, content: \"nameserver 192.0.2.9\\n\"}]\n",
    );
    host.document("network-config", network);
    for _ in 0..2 {
        host.boot();
        assert_eq!(host.read("/etc/resolv.conf"), "nameserver 192.0.2.9\n");
        assert!(!host.exists("/etc/systemd/system/firstlight-resolv-conf.path"));
    }
    let path = "/etc/systemd/network/10-firstlight-e.network";
    let host = Host::with(&format!("hostname: a\nwrite_files: [{{path: {path}}}]\n"));
    let run = host.run();
    assert_eq!(run.status, 3, "{}", run.text);
    assert!(
        run.text.contains("a file of firstboot's own"),
        "{}",
        run.text
    );
}

#[test]
fn what_is_written_is_not_checked_again() {
    let host = Host::with(
        "hostname: a\nusers: [{name: app}]\nwrite_files: [{path: /etc/f, owner: app}]\n",
    );
    host.put("/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    host.boot();
    // A person replaces the file by a folder.
    fs::remove_file(host.root.path().join("etc/f")).unwrap();
    host.put("/etc/f/x", "");
    host.boot();
}

/// What stands in a document in the place of a secret, by mistake or not.
#[test]
fn no_message_quotes_what_may_be_a_secret() {
    for document in [
        "hostname: h\nCANARYtoken: 1\nCANARYtoken: 2\n",
        "hostname: h\nchpasswd: {CANARYhunter2}\n",
        "hostname: h\npassword: !CANARYhunter2\n",
        "hostname: h\npassword: !!CANARYhunter2 x\n",
        "hostname: h\n? [CANARY, CANARY]\n: x\n",
        "hostname: h\ncanary: x\n",
        "hostname: h\nx-canary: x\n",
        "hostname: h\nusers: [{name: a, CANARY: b}]\n",
        "hostname: h\nusers: [{CANARY}]\n",
        "hostname: h\nwrite_files: [{path: /a, content: x, permissions: CANARY}]\n",
        "hostname: h\nwrite_files: [{path: /a, content: CANARY#, encoding: b64}]\n",
        "hostname: h\nwrite_files: [{path: /a, content: {CANARY: x}}]\n",
        "hostname: h\nwrite_files: [{path: /a, encoding: CANARY, content: x}]\n",
        "hostname: h\npassword: [CANARY\n",
        "hostname: h\npassword: *CANARY\n",
        "hostname: h\npassword: &CANARY &CANARY x\n",
        "hostname: h\npassword: \"CANARY\\q\"\n",
        "hostname: h\nssh_pwauth: CANARY\n",
        "hostname: h\nruncmd: {CANARY: x}\n",
        "hostname: h\nruncmd: [[CANARY, {CANARY: x}]]\n",
        "hostname: h\nntp: CANARY\n",
        "hostname: h\n%CANARY x\n",
        "CANARY",
    ] {
        let run = Host::with(document).run();
        let text = run.text.to_lowercase();
        assert!(!text.contains("canary"), "{document}{}", run.text);
    }
}
