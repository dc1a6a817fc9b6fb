//! Time to check 4 MB of topology, per shape: `cargo bench -p imagegen --bench hostile_topology`.
//!
//! It fails if a shape takes more than a second.
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use imagegen::topology::check;

const SIZE: usize = 4_000_000;
const LIMIT: Duration = Duration::from_secs(1);
/// The reader takes 250000 values.
const VALUES: usize = 230_000;

const HEAD: &str = "apiVersion: firstlight/v1\nkind: Cluster\nname: prod\n";
const NETWORK: &str =
    "network: { pods: 11.0.0.0/8, services: 172.16.0.0/16, gateway: 192.168.7.1 }\n";
const HOST: &str =
    "- { name: m0, role: master, address: 192.168.7.10/24, mac: '52:54:00:00:07:10' }\n";

/// `count` units with `values` each, at most; `#` becomes a number.
fn many(unit: &str, values: usize) -> String {
    let mut text = String::new();
    for number in 0..VALUES / values {
        text.push_str(&unit.replace('#', &number.to_string()));
        if text.len() > SIZE {
            break;
        }
    }
    text
}

fn hosts(role: &str, count: usize) -> String {
    let host = |n: usize| {
        let (a, b) = (n / 250, n % 250 + 2);
        format!(
            "- {{ name: h{n}, role: {role}, address: 172.20.{a}.{b}/16, mac: '52:54:00:00:{a:02x}:{b:02x}' }}\n"
        )
    };
    (0..count).map(host).collect()
}

fn texts() -> Vec<(&'static str, String)> {
    let with = |part: &str| format!("{HEAD}{NETWORK}{part}hosts:\n{HOST}");
    let of = |hosts: &str| format!("{HEAD}{NETWORK}hosts:\n{HOST}{hosts}");
    let alone = |hosts: &str| {
        let network = "network: { pods: 11.0.0.0/8, services: 172.16.0.0/16 }\n";
        format!("{HEAD}{network}hosts:\n{hosts}")
    };
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI#";
    vec![
        (
            "workers",
            alone(&(hosts("master", 1) + &hosts("node", 25_000))),
        ),
        ("masters", alone(&hosts("master", 25_000))),
        ("no master", alone(&hosts("node", 25_000))),
        ("equal hosts", of(&many(HOST, 9))),
        ("empty hosts", of(&many("- {}\n", 1))),
        ("unknown keys of hosts", of(&many("- {nam: x}\n", 3))),
        ("unknown roles", of(&many("- {role: x}\n", 3))),
        (
            "long unknown role",
            of(&format!("- {{role: {}}}\n", "x".repeat(SIZE))),
        ),
        (
            "labels",
            of(&format!("- labels:\n{}", many("    k#: 'a b'\n", 2))),
        ),
        (
            "names",
            with(&format!(
                "apiserver:\n  names:\n{}",
                many("  - n#.example\n", 1)
            )),
        ),
        (
            "wrong names",
            with(&format!("apiserver:\n  names:\n{}", many("  - n# x\n", 1))),
        ),
        (
            "keys",
            with(&format!(
                "ssh_authorized_keys:\n{}",
                many(&format!("- {key}\n"), 1)
            )),
        ),
        (
            "servers",
            with(&format!("ntp:\n{}", many("- n#.example\n", 1))),
        ),
        (
            "equal servers",
            with(&format!("ntp:\n{}", many("- n.example\n", 1))),
        ),
        (
            "arguments",
            with(&format!("image:\n  cmdline:\n{}", many("  - a#\n", 1))),
        ),
        (
            "flags",
            with(&format!(
                "kubernetes:\n  apiserver_args:\n{}",
                many("    --f_#: x\n", 2)
            )),
        ),
        (
            "gateways",
            format!(
                "{HEAD}network:\n  gateway:\n{}hosts:\n{HOST}",
                many("  - 192.168.7.1\n", 1)
            ),
        ),
        (
            "ranges",
            format!(
                "{HEAD}network:\n  pods:\n{}hosts:\n{HOST}",
                many("  - 10.0.0.0/16\n", 1)
            ),
        ),
        (
            "addresses",
            of(&format!(
                "- name: n0\n  role: node\n  mac: '52:54:00:00:07:20'\n  address:\n{}",
                many("  - 192.168.7.20/24\n", 1)
            )),
        ),
    ]
}

fn main() -> ExitCode {
    let mut slow = Vec::new();
    for (name, text) in texts() {
        let read = |_| {
            let start = Instant::now();
            let found = match check::read("cluster.yaml", &text) {
                Ok(_) => "valid".to_owned(),
                Err(found) => format!(
                    "{} findings: {:.100}",
                    found.0.len(),
                    found.lines().next().unwrap_or_default()
                ),
            };
            (start.elapsed(), found)
        };
        // Other programs share the machine: the best of three times is that of the check.
        let (time, found) = (0..3).map(read).min().unwrap_or_default();
        println!("{time:>10.1?} {name} ({} bytes): {found}", text.len());
        if time > LIMIT {
            slow.push(format!("{name}: {time:?}"));
        }
    }
    for one in &slow {
        println!("over {LIMIT:?}: {one}");
    }
    ExitCode::from(u8::from(!slow.is_empty()))
}
