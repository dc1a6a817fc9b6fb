//! Each mistake in a topology with its finding.

use imagegen::topology::check;

use crate::work::PROD;

/// `(what, replaced, by, place, message)`
const MISTAKES: &[(&str, &str, &str, &str, &str)] = &[
    ("unknown key", "ntp:", "ntpd:", "16:1", "unknown key `ntpd`"),
    (
        "wrong kind",
        "kind: Cluster",
        "kind: Machine",
        "2:7",
        "`Machine` is not known",
    ),
    (
        "wrong version",
        "firstlight/v1",
        "firstlight/v9",
        "1:13",
        "`firstlight/v9` is not known",
    ),
    (
        "cluster name",
        "name: prod",
        "name: Prod_1",
        "3:7",
        "not an RFC 1123 label",
    ),
    (
        "duplicate name",
        "name: m1",
        "name: m0",
        "19:11",
        "`m0` in line 18 already has the name `m0`",
    ),
    (
        "duplicate address",
        "192.168.7.11/24",
        "192.168.7.10/24",
        "19:38",
        "already has the address `192.168.7.10`",
    ),
    (
        "duplicate MAC in another notation",
        "\"52:54:00:00:07:11\"",
        "52-54-00-00-07-10",
        "19:60",
        "already has the MAC address",
    ),
    (
        "bad address",
        "192.168.7.20/24",
        "192.168.7.300/24",
        "21:38",
        "not an address with prefix",
    ),
    (
        "no prefix",
        "192.168.7.20/24",
        "192.168.7.20",
        "21:38",
        "the prefix is missing",
    ),
    (
        "network address",
        "192.168.7.20/24",
        "192.168.7.0/24",
        "21:38",
        "the address of the network",
    ),
    (
        "broadcast address",
        "192.168.7.20/24",
        "192.168.7.255/24",
        "21:38",
        "the address of the network",
    ),
    (
        "bad MAC",
        "52:54:00:00:07:20",
        "52:54:00:00:07",
        "21:60",
        "not a MAC address",
    ),
    (
        "multicast MAC",
        "52:54:00:00:07:20",
        "01:54:00:00:07:20",
        "21:60",
        "a multicast address",
    ),
    (
        "bad role",
        "role: node,  ",
        "role: worker,",
        "21:21",
        "unknown role `worker`",
    ),
    (
        "bad label",
        "disk: ssd",
        "disk: 's s d'",
        "21:96",
        "not a Kubernetes label value",
    ),
    (
        "reserved label",
        "disk: ssd",
        "node-role.kubernetes.io/worker: x",
        "21:90",
        "kubelet may not set this label",
    ),
    (
        "bad taint",
        "taints: []",
        "taints: ['a=b:NoShedule']",
        "21:111",
        "unknown taint effect `NoShedule`",
    ),
    (
        "port",
        "port: 6443",
        "port: 10250",
        "7:9",
        "10250 is the port of kubelet",
    ),
    (
        "port zero",
        "port: 6443",
        "port: 0",
        "7:9",
        "0 is not a port",
    ),
    (
        "port too large",
        "port: 6443",
        "port: 66443",
        "7:9",
        "a number from 0 to 65535",
    ),
    (
        "VIP loopback",
        "vip: 10.103.97.2",
        "vip: 127.0.0.1",
        "8:8",
        "IPVS does not send packets with a 127/8 source",
    ),
    (
        "VIP in pods",
        "vip: 10.103.97.2",
        "vip: 10.244.3.4",
        "8:8",
        "is in the pod range",
    ),
    (
        "VIP in services",
        "vip: 10.103.97.2",
        "vip: 10.96.0.9",
        "8:8",
        "is in the service range",
    ),
    (
        "VIP of a host",
        "vip: 10.103.97.2",
        "vip: 192.168.7.11",
        "8:8",
        "is the address of the host `m1`",
    ),
    (
        "ranges overlap",
        "pods: 10.244.0.0/16",
        "pods: 10.96.4.0/22",
        "11:13",
        "overlap",
    ),
    (
        "host in pods",
        "pods: 10.244.0.0/16",
        "pods: 192.168.0.0/16",
        "18:38",
        "the host's network `192.168.7.0/24` and the pod range",
    ),
    (
        "host bits",
        "pods: 10.244.0.0/16",
        "pods: 10.244.1.0/16",
        "10:9",
        "the range has host bits set",
    ),
    (
        "off the gateway",
        "192.168.7.20/24",
        "192.168.8.20/24",
        "21:38",
        "the gateway `192.168.7.1` is in no network of `n0`",
    ),
    (
        "gateway of a host",
        "gateway: 192.168.7.1 ",
        "gateway: 192.168.7.10 ",
        "12:12",
        "is the address of the host `m0`",
    ),
    (
        "mode of kube-proxy",
        "ntp: []",
        "kubernetes: {kube_proxy: {mode: iptable}}",
        "16:33",
        "not a mode of kube-proxy on Linux",
    ),
    (
        "version of kube-proxy's configuration",
        "ntp: []",
        "kubernetes: {kube_proxy: {kind: X}}",
        "16:27",
        "set by the version of kubeadm",
    ),
    ("validity", "100y", "never", "14:27", "not a validity"),
    (
        "a private key",
        "ssh_authorized_keys: []",
        "ssh_authorized_keys: ['-----BEGIN OPENSSH PRIVATE KEY-----']",
        "15:23",
        "a private key",
    ),
];

fn findings(text: &str) -> Vec<String> {
    match check::read("cluster.yaml", text) {
        Ok(checked) => checked
            .warnings
            .iter()
            .map(|found| found.one_line())
            .collect(),
        Err(found) => found.lines().collect(),
    }
}

#[test]
fn each_mistake_has_position_and_help() {
    let mut wrong = String::new();
    for (what, replaced, by, place, message) in MISTAKES {
        assert!(
            PROD.contains(replaced),
            "{what}: the fixture has no `{replaced}`"
        );
        let found = findings(&PROD.replacen(replaced, by, 1));
        let start = format!("cluster.yaml:{place}: error: ");
        if !found
            .iter()
            .any(|line| line.starts_with(&start) && line.contains(message))
        {
            wrong.push_str(&format!(
                "{what}: expected `{message}` at {place}, got {found:#?}\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn one_run_reports_all_mistakes() {
    let text = PROD
        .replace("ntp:", "ntpd:")
        .replace("vip: 10.103.97.2", "vip: 127.0.0.1")
        .replace("name: m1", "name: m0");
    let found = findings(&text);
    for part in ["8:8", "16:1", "19:11"] {
        assert!(
            found
                .iter()
                .any(|line| line.contains(&format!("cluster.yaml:{part}: error"))),
            "{part}: {found:#?}"
        );
    }
    assert_eq!(found.len(), 3, "{found:#?}");
}

#[test]
fn even_number_of_masters_is_a_warning() {
    let text: Vec<_> = PROD
        .lines()
        .filter(|line| !line.contains("name: m2"))
        .collect();
    let found = findings(&text.join("\n"));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].contains("warning: 2 masters tolerate the loss of 0"),
        "{found:#?}"
    );
}

#[test]
fn vip_in_default_service_range_is_a_warning() {
    let found = findings(&PROD.replace("10.96.0.0/16", "10.96.0.0/12"));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].contains("8:8: warning: the VIP `10.103.97.2` is in the service range"),
        "{found:#?}"
    );
}

#[test]
fn dual_stack_needs_addresses_of_both_families() {
    let text = PROD
        .replace(
            "pods: 10.244.0.0/16",
            "pods: [10.244.0.0/16, 'fd00:10:244::/56']",
        )
        .replace(
            "services: 10.96.0.0/16",
            "services: [10.96.0.0/16, 'fd00:10:96::/112']",
        );
    let found = findings(&text);
    assert_eq!(
        found.len(),
        4,
        "every host lacks an IPv6 address: {found:#?}"
    );
    let mut text = text;
    for last in ["10", "11", "12", "20"] {
        let both = format!("[192.168.7.{last}/24, 'fd00::{last}/64']");
        text = text.replace(&format!("192.168.7.{last}/24"), &both);
    }
    let plan = check::read("cluster.yaml", &text)
        .expect("a valid topology")
        .plan;
    assert_eq!(plan.hosts[0].addresses.len(), 2);
    let own = imagegen::pki::LEAVES[0].specify(&plan, &plan.hosts[0]);
    for ip in ["10.96.0.1", "fd00:10:96::1", "fd00::10", "192.168.7.12"] {
        assert!(
            own.ips.contains(&ip.parse().expect("an address")),
            "{ip}: {:?}",
            own.ips
        );
    }
}
