//! Documents of the field, distilled from public reports, each with the result that cloud-init or
//! netplan gives it.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

mod common;

use std::fs;

use assert_cmd::Command;
use tempfile::TempDir;

use common::{fixture, image_root};

/// A machine, and a seed that a test may change.
struct Host {
    root: TempDir,
    seed: TempDir,
}

struct Run {
    status: i32,
    text: String,
}

impl Host {
    /// With the seed of this case.
    fn new(case: &str) -> Self {
        let seed = TempDir::new().unwrap();
        for entry in fs::read_dir(fixture(&format!("cases/{case}"))).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                fs::copy(entry.path(), seed.path().join(entry.file_name())).unwrap();
            }
        }
        Host {
            root: image_root(),
            seed,
        }
    }

    /// With this user-data and nothing else in the seed.
    fn with(user_data: &str) -> Self {
        let host = Host {
            root: image_root(),
            seed: TempDir::new().unwrap(),
        };
        host.document("user-data", &format!("#cloud-config\n{user_data}"));
        host
    }

    fn document(&self, file: &str, text: &str) {
        fs::write(self.seed.path().join(file), text).unwrap();
    }

    /// Puts a file on the machine.
    fn put(&self, path: &str, text: &str) {
        let path = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        let path = self.root.path().join(path.trim_start_matches('/'));
        fs::read_to_string(&path).unwrap_or_default()
    }

    fn exists(&self, path: &str) -> bool {
        self.root.path().join(path.trim_start_matches('/')).exists()
    }

    fn run(&self) -> Run {
        self.firstboot(&[])
    }

    fn plan(&self) -> Run {
        self.firstboot(&["--plan"])
    }

    fn firstboot(&self, arguments: &[&str]) -> Run {
        let mut command = Command::cargo_bin("firstboot").unwrap();
        command.arg("--root").arg(self.root.path());
        command.arg("--seed").arg(self.seed.path()).args(arguments);
        let output = command.output().unwrap();
        Run {
            status: output.status.code().unwrap(),
            text: String::from_utf8([output.stdout, output.stderr].concat()).unwrap(),
        }
    }

    /// Runs, and fails the test unless it ends ready.
    fn boot(&self) -> Run {
        let run = self.run();
        assert_eq!(run.status, 0, "{}", run.text);
        run
    }

    /// The keys that let `user` in, without those that only print a message.
    fn keys(&self, user: &str) -> Vec<String> {
        let text = self.read(&format!("/etc/ssh/authorized_keys.d/{user}"));
        let lines = text.lines().filter(|line| !line.contains("command="));
        lines.map(str::to_owned).collect()
    }
}

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
    assert!(!run.text.contains("lets nobody in"), "{}", run.text);
}

#[test]
fn keys_that_let_nobody_in_are_named() {
    let host = Host::new("keys-without-default-user");
    let run = host.boot();
    assert_eq!(names(&host.keys("root")), ["ops@example"]);
    assert!(
        run.text
            .contains("user-data:8:5: warning: this SSH key lets nobody in"),
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
            .contains("meta-data:1:1: warning: these SSH keys let nobody in"),
        "{}",
        run.text
    );
}

#[test]
fn disabled_root_has_no_shell() {
    let host = Host::new("keys-read-not-used");
    let run = host.boot();
    assert_eq!(host.keys("root"), [""; 0]);
    assert!(run.text.contains("lets nobody in"), "{}", run.text);
    let user = "user: admin\ndisable_root: true\nssh_authorized_keys:\n";
    let host = Host::with(&format!("hostname: a\n{user}- {KEY} ops@example\n"));
    let run = host.boot();
    assert_eq!(names(&host.keys("admin")), ["ops@example"]);
    assert_eq!(host.keys("root"), [""; 0]);
    assert!(!run.text.contains("lets nobody in"), "{}", run.text);
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

/// The documents that were right before stay right: accepted, or refused at this place.
#[test]
fn passing_documents_keep_their_verdict() {
    let refused = [
        (
            "anchors-plain",
            "user-data:2:1: error: unknown key `.common`",
        ),
        ("dup-key", "user-data:5:1: error: duplicate key `runcmd`"),
        ("fqdn-in-hostname", "user-data:2:11: error: not a DNS name"),
        (
            "jinja-like-content",
            "user-data:8:18: error: the mode must be octal",
        ),
        ("leading-blank-line", "user-data is of no known kind"),
        ("lima-like", "`mounts`, `timezone` is not supported"),
        ("net-dummy-vrf", "network-config:3:3: error: "),
        (
            "net-empty-match-dhcp",
            "network-config:4:12: error: an empty `match`",
        ),
        (
            "net-no-version",
            "network-config:1:1: error: the key `version` is missing",
        ),
        (
            "net-route-metrics",
            "network-config:8:16: error: the range has host bits set",
        ),
        ("no-hostname", "`hostname` is missing"),
        (
            "proxmox-like",
            "network-config:1:10: error: network configuration of version 1",
        ),
        (
            "runcmd-string",
            "user-data:3:9: error: expected a list, found text",
        ),
    ];
    for entry in fs::read_dir(fixture("passing")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let host = Host::new(&format!("../passing/{name}"));
        let run = host.run();
        match refused.iter().find(|(refused, _)| *refused == name) {
            Some((_, message)) => {
                assert_eq!(run.status, 3, "{name}: {}", run.text);
                assert!(run.text.contains(message), "{name}: {}", run.text);
                assert!(!host.root.path().join("etc").exists(), "{name}");
            }
            None => assert_eq!(run.status, 0, "{name}: {}", run.text),
        }
    }
}
