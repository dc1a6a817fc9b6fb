//! Routes and routing rules.

use ipnet::IpNet;

use super::Unit;
use crate::network::{Destination, Device, Route};

/// `vrf` is the table of the device, if it is a VRF.
pub(super) fn routes(unit: &mut Unit, device: &Device, vrf: Option<u32>) {
    for gateway in device
        .gateway4
        .iter()
        .map(ToString::to_string)
        .chain(device.gateway6.iter().map(ToString::to_string))
    {
        unit.section("Route").set("Gateway", gateway);
    }
    for route in &device.routes {
        unit.section("Route");
        match route.to {
            // networkd's own reader clears host bits too.
            Destination::Net(net) => drop(unit.set("Destination", net.trunc())),
            Destination::Default if route.via.is_some_and(|via| via.is_ipv6()) => {
                unit.set("Destination", "::/0");
            }
            Destination::Default => drop(unit.set("Destination", "0.0.0.0/0")),
        }
        unit.maybe("Gateway", route.via);
        if route.on_link {
            unit.set("GatewayOnLink", "true");
        }
        unit.maybe("PreferredSource", route.from)
            .maybe("Metric", route.metric)
            .maybe("Table", route.table.or(vrf))
            .maybe("Scope", scope(route))
            .maybe(
                "Type",
                route.kind.as_ref().filter(|kind| *kind != "unicast"),
            )
            .maybe("MTUBytes", route.mtu)
            .maybe("InitialCongestionWindow", route.congestion_window)
            .maybe(
                "InitialAdvertisedReceiveWindow",
                route.advertised_receive_window,
            )
            .maybe("TCPAdvertisedMaximumSegmentSize", route.advertised_mss);
    }
    for rule in &device.routing_policy {
        let net = |end: Option<Destination>| match end {
            Some(Destination::Net(net)) => Some(net.to_string()),
            Some(Destination::Default) => Some(IpNet::default().to_string()),
            None => None,
        };
        unit.section("RoutingPolicyRule");
        unit.maybe("Priority", rule.priority)
            .maybe("Table", rule.table.or(vrf))
            .maybe("FirewallMark", rule.mark)
            .maybe("TypeOfService", rule.type_of_service)
            .maybe("From", net(rule.from))
            .maybe("To", net(rule.to));
    }
}

/// netplan's default, which depends on the type; `global` is networkd's.
fn scope(route: &Route) -> Option<&str> {
    let default = match route.kind.as_deref().unwrap_or("unicast") {
        "local" | "nat" => "host",
        "broadcast" | "multicast" | "anycast" => "link",
        "unicast" if route.via.is_none() => "link",
        _ => "global",
    };
    let scope = route.scope.as_deref().unwrap_or(default);
    (scope != "global").then_some(scope)
}
