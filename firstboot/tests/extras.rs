//! Keys of cloud-config that no role needs: what each makes of a directory, once.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

mod common;

use std::fs;

use common::host::Host;

#[test]
fn document_without_a_name_keeps_that_of_the_machine() {
    let host = Host::with("write_files: [{path: /etc/a}]\n");
    host.put("/etc/hostname", "kept\n");
    host.boot();
    assert_eq!(host.read("/etc/hostname"), "kept\n");
    assert!(host.read("/etc/hosts").contains("127.0.1.1 kept\n"));
    let host = Host::with("hostname: other\npreserve_hostname: true\n");
    host.put("/etc/hostname", "kept\n");
    host.boot();
    assert_eq!(host.read("/etc/hostname"), "kept\n");
}

#[test]
fn time_zone_is_set_once() {
    let host = Host::with("hostname: a\ntimezone: Europe/Berlin\n");
    host.put("/usr/share/zoneinfo/Europe/Berlin", "TZif");
    host.boot();
    let link = host.root.path().join("etc/localtime");
    let target = fs::read_link(&link).unwrap();
    assert_eq!(target.to_str(), Some("/usr/share/zoneinfo/Europe/Berlin"));
    assert_eq!(host.read("/etc/timezone"), "Europe/Berlin\n");
    // A person changes it.
    host.put("/etc/timezone", "Asia/Tokyo\n");
    host.boot();
    assert_eq!(host.read("/etc/timezone"), "Asia/Tokyo\n");
    host.document(
        "user-data",
        "#cloud-config\nhostname: b\ntimezone: Mars/Base\n",
    );
    let run = host.run();
    assert_eq!(run.status, 3, "{}", run.text);
    assert!(
        run.text.contains("no time zone `Mars/Base`"),
        "{}",
        run.text
    );
    assert_eq!(host.read("/etc/hostname"), "a\n");
}

#[test]
fn locale_of_the_image_is_set_and_another_is_named() {
    let host = Host::with("hostname: a\nlocale: C.UTF-8\n");
    host.boot();
    assert_eq!(host.read("/etc/locale.conf"), "LANG=C.UTF-8\n");
    let host = Host::with("hostname: a\nlocale: en_US.UTF-8\n");
    let run = host.boot();
    assert!(run.text.contains("no locale `en_US.UTF-8`"), "{}", run.text);
    assert!(!host.exists("/etc/locale.conf"));
    let host = Host::with("hostname: a\nlocale: false\n");
    let run = host.boot();
    assert!(!run.text.contains("locale"), "{}", run.text);
}

#[test]
fn mounts_have_the_defaults_of_cloud_init() {
    let host = Host::with(
        "hostname: a\nmounts:\n- [vdb, /var/data]\n- [LABEL=logs, /var/log2, ext4, ro, 0, 0]\n\
         - [mount0, /var/share, virtiofs, rw]\n- [vdc, null]\n- [ephemeral0]\nswap: {size: 0}\n",
    );
    host.boot();
    assert_eq!(
        host.read("/etc/fstab"),
        "/dev/vdb\t/var/data\tauto\tdefaults,nofail,x-firstlight\t0\t2\n\
         LABEL=logs\t/var/log2\text4\tro,x-firstlight\t0\t0\n\
         mount0\t/var/share\tvirtiofs\trw,x-firstlight\t0\t2\n"
    );
    for (text, message) in [
        (
            "mounts: [[vdb, data]]",
            "user-data:3:10: error: the second field",
        ),
        ("swap: {size: 1G}", "Kubernetes requires swap to be off"),
        (
            "mounts: [[swap, none, swap]]",
            "Kubernetes requires it to be off",
        ),
    ] {
        let run = Host::with(&format!("hostname: a\n{text}\n")).run();
        assert_eq!(run.status, 3, "{text}: {}", run.text);
        assert!(run.text.contains(message), "{text}: {}", run.text);
    }
}

#[test]
fn mount_on_the_image_is_told_and_the_others_are_made() {
    let host = Host::with("hostname: a\nmounts: [[vdb, /usr/data], [vdc, /var/c]]\n");
    let run = host.boot();
    assert!(
        run.text.contains("`/usr/data` is not mounted"),
        "{}",
        run.text
    );
    let table = host.read("/etc/fstab");
    assert!(
        table.starts_with("/dev/vdc\t") && table.lines().count() == 1,
        "{table}"
    );
}

#[test]
fn keys_that_an_immutable_root_cannot_honour_are_told_or_refused() {
    let text = "hostname: a\npackages: [qemu-guest-agent]\nsnap: {}\n";
    let host = Host::with(text);
    let run = host.boot();
    assert!(
        run.text
            .contains("user-data:3:1: warning: `packages` is not done"),
        "{}",
        run.text
    );
    assert!(!run.text.contains("`snap`"), "{}", run.text);
    assert_eq!(host.read("/etc/hostname"), "a\n");
    // The topology of the image refuses them.
    let host = Host::with(text);
    let path = "/usr/share/firstlight/image.json";
    let image = host.read(path);
    let (head, _) = image.trim_end().rsplit_once('}').unwrap();
    host.put(path, &format!("{head}, \"impossible_keys\": \"refuse\"}}"));
    let run = host.run();
    assert_eq!(run.status, 3, "{}", run.text);
    assert!(run.text.contains("image.impossible_keys"), "{}", run.text);
    assert!(!host.exists("/etc/hostname"));
}

#[test]
fn last_keys_follow_all_other_steps() {
    let host = Host::with(
        "hostname: a\nruncmd: ['true']\nfinal_message: up after $UPTIME s\nphone_home: {url: \
         'http://h/?t=hunter2'}\npower_state: {mode: reboot, delay: '+2', condition: 'test -f /x'}\n",
    );
    let plan = host.plan();
    let lines = plan.text.lines();
    let steps = lines.filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    let names: Vec<_> = steps
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    assert!(
        names.ends_with(&["runcmd", "phone-home", "final-message", "power-state"]),
        "{}",
        plan.text
    );
    assert!(
        plan.text.contains("reboot this host in 2 min"),
        "{}",
        plan.text
    );
    assert!(!plan.text.contains("hunter2"), "{}", plan.text);
    for (text, message) in [
        (
            "power_state: {mode: sleep}",
            "user-data:3:21: error: expected `halt`",
        ),
        (
            "power_state: {mode: halt, delay: soon}",
            "expected `now`, or minutes",
        ),
        ("phone_home: {post: all}", "the key `url` is missing"),
        (
            "phone_home: {url: 'http://h/', post: [keys]}",
            "`keys` is nothing to send",
        ),
    ] {
        let run = Host::with(&format!("hostname: a\n{text}\n")).run();
        assert_eq!(run.status, 3, "{text}: {}", run.text);
        assert!(run.text.contains(message), "{text}: {}", run.text);
    }
}

/// Cluster API's three documents: a command runs kubeadm and marks its success.
#[test]
fn documents_of_cluster_api_are_applied() {
    for kind in ["init", "join-control-plane", "join-worker"] {
        let folder = format!("../userdata/tests/fixtures/clients/cluster-api-{kind}");
        let host = Host::with("");
        for file in ["user-data", "meta-data"] {
            let text = fs::read_to_string(format!("{folder}/{file}")).unwrap();
            host.document(file, &text);
        }
        let run = host.boot();
        assert!(!run.text.contains("abcdef.0123456789"), "{}", run.text);
        let files = host.read("/run/kubeadm/kubeadm.yaml")
            + &host.read("/run/kubeadm/kubeadm-join-config.yaml");
        let name = format!("name: 'capi-{kind}'");
        assert!(files.contains(&name), "{files}");
        assert!(host.exists("/run/cluster-api/placeholder"));
        assert_eq!(host.read("/etc/hostname"), format!("capi-{kind}\n"));
        let plan = host.plan().text;
        assert!(
            plan.contains(" runcmd ") && !plan.contains(" kubelet "),
            "{plan}"
        );
        // At later boots firstboot starts the kubelet that kubeadm configured.
        host.put(
            "/var/lib/kubelet/config.yaml",
            "kind: KubeletConfiguration\n",
        );
        let plan = host.plan().text;
        assert!(plan.contains(" kubelet "), "{plan}");
    }
}
