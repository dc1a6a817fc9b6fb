//! Routes and routing rules: types, scopes, and families that fit.

use super::Checker;
use crate::network::{Destination, Device};

impl Checker<'_> {
    pub(super) fn routes(&mut self, device: &Device, at: &str) {
        for (i, route) in device.routes.iter().enumerate() {
            let at = format!("{at}.routes[{i}]");
            let kinds = [
                "unicast",
                "anycast",
                "blackhole",
                "broadcast",
                "local",
                "multicast",
                "nat",
                "prohibit",
                "throw",
                "unreachable",
                "xresolve",
            ];
            if route
                .kind
                .as_deref()
                .is_some_and(|kind| !kinds.contains(&kind))
            {
                self.error(
                    &at,
                    "type",
                    "not a type of route",
                    "`unicast`, `blackhole`, `unreachable`, …",
                );
            }
            if !matches!(
                route.scope.as_deref(),
                None | Some("global" | "link" | "host")
            ) {
                self.error(&at, "scope", "expected `global`, `link` or `host`", "");
            }
            let family = match route.to {
                Destination::Default => None,
                Destination::Net(net) => Some(net.addr().is_ipv4()),
            };
            if let Some(net) = family.and(match route.to {
                Destination::Net(net) => Some(net),
                Destination::Default => None,
            }) && net.addr() != net.network()
            {
                let message = format!("the range has host bits set; it is `{}`", net.trunc());
                let warning = self.spans.warning_at(&format!("{at}.to"), message, None);
                self.found.push_unless_known(warning);
            }
            match route.via {
                Some(via) if family.is_some_and(|ipv4| ipv4 != via.is_ipv4()) => {
                    self.error(
                        &at,
                        "via",
                        "the gateway is of another address family than the destination",
                        "",
                    );
                }
                None if family.is_none() && route.scope.as_deref() != Some("link") => {
                    self.error(&at, "to", "a default route needs a gateway", "write `via`");
                }
                _ => {}
            }
        }
        let rules = device.routing_policy.iter().enumerate();
        for (i, rule) in rules {
            if rule.from.is_none() && rule.to.is_none() {
                self.error(
                    &format!("{at}.routing-policy[{i}]"),
                    "",
                    "a rule needs `from` or `to`",
                    "",
                );
            }
        }
    }
}
