//! Parameters of bonds and bridges under the names of ifupdown.

use serde_json::{Map, Value, json};

use super::Reader;
use crate::network::Parameters;
use yaml::{Scalar, Scalars};

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Bool,
    List,
    /// `NAME NUMBER`, or a list of these.
    Pairs,
    /// Has no counterpart in systemd-networkd, and none is needed.
    Unused,
}

/// Name in version 1 without `bond-`, name in version 2.
const BOND: &[(&str, &str, Kind)] = &[
    ("mode", "mode", Kind::Text),
    ("miimon", "mii-monitor-interval", Kind::Text),
    ("min-links", "min-links", Kind::Number),
    ("lacp-rate", "lacp-rate", Kind::Text),
    ("xmit-hash-policy", "transmit-hash-policy", Kind::Text),
    ("ad-select", "ad-select", Kind::Text),
    ("updelay", "up-delay", Kind::Text),
    ("downdelay", "down-delay", Kind::Text),
    ("fail-over-mac", "fail-over-mac-policy", Kind::Text),
    ("num-grat-arp", "gratuitous-arp", Kind::Number),
    ("num-unsol-na", "gratuitous-arp", Kind::Number),
    ("primary", "primary", Kind::Text),
    ("primary-reselect", "primary-reselect-policy", Kind::Text),
    ("all-slaves-active", "all-members-active", Kind::Bool),
    ("arp-interval", "arp-interval", Kind::Text),
    ("arp-ip-target", "arp-ip-targets", Kind::List),
    ("arp-validate", "arp-validate", Kind::Text),
    ("arp-all-targets", "arp-all-targets", Kind::Text),
    ("packets-per-slave", "packets-per-member", Kind::Number),
    ("resend-igmp", "resend-igmp", Kind::Number),
    ("lp-interval", "learn-packet-interval", Kind::Text),
    ("slaves", "", Kind::Unused),
    ("master", "", Kind::Unused),
    ("use-carrier", "", Kind::Unused),
];

/// Without `bridge-`.
const BRIDGE: &[(&str, &str, Kind)] = &[
    ("stp", "stp", Kind::Bool),
    ("ageing", "ageing-time", Kind::Text),
    ("bridgeprio", "priority", Kind::Number),
    ("fd", "forward-delay", Kind::Text),
    ("hello", "hello-time", Kind::Text),
    ("maxage", "max-age", Kind::Text),
    ("pathcost", "path-cost", Kind::Pairs),
    ("portprio", "port-priority", Kind::Pairs),
    ("ports", "", Kind::Unused),
    ("waitport", "", Kind::Unused),
    ("maxwait", "", Kind::Unused),
    ("gcint", "", Kind::Unused),
    ("hw", "", Kind::Unused),
];

/// The kernel's numbers of the modes.
const MODES: [&str; 7] = [
    "balance-rr",
    "active-backup",
    "balance-xor",
    "broadcast",
    "802.3ad",
    "balance-tlb",
    "balance-alb",
];

impl Reader<'_> {
    pub(super) fn bond_parameters<'p>(
        &mut self,
        at: &str,
        given: impl Iterator<Item = (&'p String, &'p Scalars)>,
    ) -> Option<Parameters> {
        self.parameters(at, "bond", BOND, given)
    }

    pub(super) fn bridge_parameters<'p>(
        &mut self,
        at: &str,
        given: impl Iterator<Item = (&'p String, &'p Scalars)>,
    ) -> Option<Parameters> {
        self.parameters(at, "bridge", BRIDGE, given)
    }

    fn parameters<'p>(
        &mut self,
        at: &str,
        prefix: &str,
        table: &[(&str, &str, Kind)],
        given: impl Iterator<Item = (&'p String, &'p Scalars)>,
    ) -> Option<Parameters> {
        let mut all = Map::new();
        for (key, Scalars(values)) in given {
            let path = format!("{at}.params[\"{key}\"]");
            let name = key.replace('_', "-");
            let short = name.strip_prefix(&format!("{prefix}-")).unwrap_or(&name);
            let Some((_, to, kind)) = table.iter().find(|(from, ..)| *from == short) else {
                let names = table.iter().map(|(from, ..)| *from);
                let help = yaml::nearest(short, names)
                    .map(|known| format!("did you mean `{prefix}-{known}`?"));
                let message = format!("unknown parameter `{key}`");
                self.error_at_key(&path, message, help);
                continue;
            };
            if matches!(kind, Kind::Unused) || values.is_empty() {
                continue;
            }
            let value = converted(short, *kind, values);
            let alone = Value::Object(Map::from_iter([((*to).to_owned(), value.clone())]));
            // Each alone, so that an error has its place.
            match serde_json::from_value::<Parameters>(alone) {
                Ok(_) => {
                    all.insert((*to).to_owned(), value);
                }
                Err(error) => self.error(&path, error.to_string(), None),
            }
        }
        if all.is_empty() {
            return None;
        }
        serde_json::from_value(Value::Object(all)).ok()
    }
}

/// The value as version 2 has it; what does not fit is left for its reader to refuse.
fn converted(key: &str, kind: Kind, values: &[Scalar]) -> Value {
    let first = values[0].text.as_str();
    let number = |text: &str| {
        text.parse::<u64>()
            .map_or(json!(text), |number| json!(number))
    };
    match kind {
        Kind::Unused => Value::Null,
        Kind::Number => number(first),
        Kind::Bool => match first.to_ascii_lowercase().as_str() {
            "on" | "yes" | "true" | "1" => json!(true),
            "off" | "no" | "false" | "0" => json!(false),
            other => json!(other),
        },
        Kind::List => {
            let words = values.iter().flat_map(|one| one.text.split([' ', ',']));
            words.filter(|word| !word.is_empty()).collect()
        }
        Kind::Pairs => {
            let pair = |one: &Scalar| {
                let text = one.text.as_str();
                let (name, value) = text.split_once([' ', ':', '=']).unwrap_or((text, ""));
                (name.to_owned(), number(value.trim()))
            };
            Value::Object(values.iter().map(pair).collect())
        }
        Kind::Text => match (key, first) {
            ("mode", digit) => {
                let mode = digit.parse::<usize>().ok().and_then(|n| MODES.get(n));
                json!(mode.copied().unwrap_or(first))
            }
            ("lacp-rate", "0") => json!("slow"),
            ("lacp-rate", "1") => json!("fast"),
            ("fail-over-mac", "0") => json!("none"),
            ("fail-over-mac", "1") => json!("active"),
            ("fail-over-mac", "2") => json!("follow"),
            ("primary-reselect", "0") => json!("always"),
            ("primary-reselect", "1") => json!("better"),
            ("primary-reselect", "2") => json!("failure"),
            ("ad-select", "0") => json!("stable"),
            ("ad-select", "1") => json!("bandwidth"),
            ("ad-select", "2") => json!("count"),
            _ => json!(first),
        },
    }
}
