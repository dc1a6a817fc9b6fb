//! Documents of the field that were right from the beginning.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

mod common;

use std::fs;

use common::fixture;
use common::host::Host;

/// Accepted, or refused at this place.
#[test]
fn passing_documents_keep_their_verdict() {
    let refused = [
        (
            "anchors-plain",
            "user-data:2:1: error: unknown key (not shown here",
        ),
        (
            "dup-key",
            "user-data:5:1: error: duplicate key (not shown here",
        ),
        ("fqdn-in-hostname", "user-data:2:11: error: not a DNS name"),
        (
            "jinja-like-content",
            "user-data:8:18: error: the mode must be octal",
        ),
        ("leading-blank-line", "user-data is of no known kind"),
        (
            "net-dummy-vrf",
            "network-config:10:13: error: tunnels of the mode `wireguard`",
        ),
        (
            "net-empty-match-dhcp",
            "network-config:4:12: error: an empty `match`",
        ),
        (
            "net-no-version",
            "network-config:1:1: error: the key `version` is missing",
        ),
        // netplan takes no names of tables either.
        (
            "net-route-metrics",
            "network-config:13:35: error: expected a number",
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
