//! Routes for the ranges of Services.
//!
//! The kernel routes a packet before kube-proxy translates its address. On a host without a default
//! route a process of the host network that asks for a Service gets "network is unreachable", and
//! the pod network never starts. A dummy link holds a route for each range; what kube-proxy
//! translates is routed again to where it really goes.

use std::fmt::Write as _;

use userdata::node_config::NodeConfig;

const LINK: &str = "10-firstlight-services";
const NAME: &str = "fl-services";

/// The configuration files of systemd-networkd, as names and texts.
pub fn files(node: &NodeConfig) -> Vec<(String, String)> {
    let mut routes = String::new();
    for range in &node.network.services {
        let own = node
            .addresses
            .iter()
            .map(|address| address.addr())
            .find(|address| address.is_ipv4() == range.addr().is_ipv4());
        let Some(own) = own else {
            // A family that the host does not speak.
            continue;
        };
        let _ = write!(
            routes,
            "\n[Route]\nDestination={range}\nPreferredSource={own}\n"
        );
        if range.addr().is_ipv4() {
            routes.push_str("Scope=link\n");
        }
    }
    if routes.is_empty() {
        return Vec::new();
    }
    vec![
        (
            format!("{LINK}.netdev"),
            format!("[NetDev]\nName={NAME}\nKind=dummy\n"),
        ),
        (
            format!("{LINK}.network"),
            format!(
                "[Match]\nName={NAME}\n\n[Link]\nRequiredForOnline=no\n\n\
                 [Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nConfigureWithoutCarrier=yes\n{routes}"
            ),
        ),
    ]
}
