//! Rules for pod ranges: kubeadm must accept them, and each node must get a range of its own.
//!
//! kube-controller-manager gives each node a part of the pod range. kubeadm checks the size of
//! these parts (`cmd/kubeadm/app/apis/kubeadm/validation`, `ValidatePodSubnetNodeMask`), but not
//! whether there are enough of them: the hosts after the last part stay without a pod network.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::Topology;
use super::findings::Findings;
use super::network::is_v4;

/// kubeadm's and kube-controller-manager's limit for the bits between the two prefixes.
const MAX_DIFFERENCE: u8 = 16;

/// The flag for a cluster of one address family, and those for both families.
const SINGLE: &str = "node-cidr-mask-size";
const IPV4: &str = "node-cidr-mask-size-ipv4";
const IPV6: &str = "node-cidr-mask-size-ipv6";

pub(super) fn check(ranges: &[(String, IpNet)], topology: &Topology, f: &mut Findings<'_>) {
    let kubernetes = &topology.kubernetes;
    let args = &kubernetes.controller_manager_args;
    let dual = ranges.len() > 1;
    let unused: &[&str] = if dual { &[SINGLE] } else { &[IPV4, IPV6] };
    for flag in unused.iter().filter(|flag| args.contains_key(**flag)) {
        let (message, help) = if dual {
            (
                "kube-controller-manager refuses this flag in a dual-stack cluster",
                format!("write `{IPV4}` and `{IPV6}`"),
            )
        } else {
            (
                "kube-controller-manager refuses this flag in a cluster of one address family",
                format!("write `{SINGLE}`"),
            )
        };
        f.error_at_key(&path_of(flag), message, help);
    }
    for (path, range) in ranges {
        let flag = match (dual, is_v4(range)) {
            (false, _) => SINGLE,
            (true, true) => IPV4,
            (true, false) => IPV6,
        };
        let args = if args.contains_key(flag) {
            args
        } else {
            &kubernetes.package_args
        };
        if let Some(size) = node_prefix(range, flag, args, f) {
            one(path, range, size, flag, topology, f);
        }
    }
}

fn path_of(flag: &str) -> String {
    format!("kubernetes.controller_manager_args[\"{flag}\"]")
}

/// The prefix length of a node's part: of the flag, or kubeadm's default.
fn node_prefix(
    range: &IpNet,
    flag: &str,
    args: &BTreeMap<String, String>,
    f: &mut Findings<'_>,
) -> Option<u8> {
    let Some(text) = args.get(flag) else {
        return Some(if is_v4(range) { 24 } else { 64 });
    };
    let size = text
        .parse()
        .ok()
        .filter(|size| (1..=range.max_prefix_len()).contains(size));
    if size.is_none() {
        f.error(
            &path_of(flag),
            "not a prefix length",
            format!("write a number from 1 to {}", range.max_prefix_len()),
        );
    }
    size
}

fn one(path: &str, range: &IpNet, size: u8, flag: &str, topology: &Topology, f: &mut Findings<'_>) {
    let hosts = topology.hosts.len();
    let prefix = range.prefix_len();
    if prefix > size {
        let message = format!(
            "the pod range is smaller than the /{size} of a single node: kubeadm refuses it"
        );
        f.error(path, message, room(range, size, flag, hosts));
    } else if size - prefix > MAX_DIFFERENCE {
        let message = format!(
            "the /{size} of a node is more than {MAX_DIFFERENCE} bits longer than the pod range: \
             kubeadm refuses it"
        );
        let help = format!(
            "write `{}/{}` or a smaller range",
            range.addr(),
            size - MAX_DIFFERENCE
        );
        f.error(path, message, help);
    } else if allocates(topology) && hosts > 1 << (size - prefix) {
        let message = format!(
            "the pod range has room for {} of {hosts} hosts: each takes a /{size}",
            1_u32 << (size - prefix)
        );
        f.error(path, message, room(range, size, flag, hosts));
    }
}

/// How to get a part for each host.
fn room(range: &IpNet, size: u8, flag: &str, hosts: usize) -> String {
    let needed = bits(hosts);
    let mut help = format!("write a range of at least /{}", size.saturating_sub(needed));
    let smaller = range.prefix_len().saturating_add(needed);
    // A part with fewer than 16 addresses has room for hardly any pod.
    if smaller.saturating_add(4) <= range.max_prefix_len() {
        help.push_str(&format!(
            ", or smaller parts: `kubernetes: {{controller_manager_args: {{{flag}: \
             \"{smaller}\"}}}}`"
        ));
    }
    help
}

/// The bits that number `hosts` parts.
fn bits(hosts: usize) -> u8 {
    u8::try_from(hosts.next_power_of_two().trailing_zeros()).unwrap_or(u8::MAX)
}

/// Network plugins with their own address management need no parts: Calico, Cilium.
fn allocates(topology: &Topology) -> bool {
    let kubernetes = &topology.kubernetes;
    let flag = "allocate-node-cidrs";
    let own = kubernetes.controller_manager_args.get(flag);
    own.or_else(|| kubernetes.package_args.get(flag))
        .is_none_or(|value| value != "false")
}
