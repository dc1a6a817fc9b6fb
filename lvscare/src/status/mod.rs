//! Status data of the daemon, for `status`, `/status` and `/metrics`.

pub mod histogram;
mod metrics;
pub mod server;
mod text;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::pool::Pool;
use crate::pool::health::Class;
use crate::status::histogram::Histogram;
use crate::table::Actual;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub service: Option<SocketAddr>,
    /// Whether our service is in the kernel's table.
    pub present: bool,
    pub panic: bool,
    /// The source address of connections to the service.
    pub source: Option<IpAddr>,
    pub servers: Vec<Server>,
    /// Settings in `/proc/sys/net/ipv4/vs` with an unexpected value.
    pub wrong_sysctls: BTreeMap<String, String>,
    /// Seconds since our service was last removed externally.
    #[serde(default)]
    pub wiped_seconds_ago: Option<u64>,
    /// The error of the last pass.
    pub error: Option<String>,
    #[serde(default)]
    pub counters: Counters,
    /// The number of servers by source.
    #[serde(default)]
    pub members: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    pub address: SocketAddr,
    pub class: String,
    /// Seconds in this class.
    pub seconds: u64,
    /// The failure of the last probe.
    pub cause: Option<String>,
    /// Weight in the kernel; none if the server is not in the table.
    pub weight: Option<u32>,
    pub active: u32,
    pub inactive: u32,
    /// Duration of the last probe.
    pub probe_seconds: f64,
    #[serde(default)]
    pub probes: Histogram,
    pub transitions: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Changes of the kernel's table, by request.
    pub changes: BTreeMap<String, u64>,
    /// Sockets of this host that were closed.
    pub flows_killed: u64,
    /// Open flows of pods when their server was deleted.
    pub flows_expired: u64,
    pub foreign_wipes: u64,
    pub panics: u64,
}

/// Exit status of `lvscare status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    AllUp = 0,
    Degraded = 1,
    Panic = 2,
    NotSetUp = 3,
}

impl Status {
    /// Combines pool and table; the caller fills in `probe_seconds` and `transitions`.
    pub fn servers(pool: &Pool, actual: &Actual, now: std::time::Instant) -> Vec<Server> {
        let server = |member: &crate::pool::Backend| {
            let found = actual.destination(member.address);
            Server {
                address: member.address,
                class: member.health.class().to_string(),
                seconds: now.saturating_duration_since(member.since).as_secs(),
                cause: member.cause.clone(),
                weight: found.map(|found| found.weight),
                active: found.map_or(0, |found| found.active_connections),
                inactive: found.map_or(0, |found| found.inactive_connections),
                probe_seconds: 0.0,
                probes: Histogram::default(),
                transitions: 0,
            }
        };
        pool.backends().iter().map(server).collect()
    }

    /// The status without a daemon: health is unknown.
    pub fn from_table(service: SocketAddr, actual: &Actual) -> Self {
        let server = |found: &crate::ipvs::Destination| Server {
            address: found.address,
            class: Class::Unknown.to_string(),
            seconds: 0,
            cause: None,
            weight: Some(found.weight),
            active: found.active_connections,
            inactive: found.inactive_connections,
            probe_seconds: 0.0,
            probes: Histogram::default(),
            transitions: 0,
        };
        let wrong = crate::sysctl::check()
            .into_iter()
            .map(|wrong| (wrong.name.to_owned(), wrong.found));
        Self {
            service: Some(service),
            present: actual.service.is_some(),
            servers: actual.destinations.iter().map(server).collect(),
            wrong_sysctls: wrong.collect(),
            ..Self::default()
        }
    }

    pub fn grade(&self) -> Grade {
        let all_up = self
            .servers
            .iter()
            .all(|server| server.class == Class::Up.to_string() && server.weight.is_some());
        if !self.present || self.servers.is_empty() {
            Grade::NotSetUp
        } else if self.panic {
            Grade::Panic
        } else if all_up && self.wrong_sysctls.is_empty() && self.error.is_none() {
            Grade::AllUp
        } else {
            Grade::Degraded
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let mut probes = Histogram::default();
        probes.add(0.0015);
        let server = Server {
            address: "192.168.7.10:6443".parse().unwrap(),
            class: "up".to_owned(),
            seconds: 7,
            cause: None,
            weight: Some(1),
            active: 2,
            inactive: 3,
            probe_seconds: 0.0015,
            probes,
            transitions: 1,
        };
        Status {
            service: "10.103.97.2:6443".parse().ok(),
            present: true,
            source: "192.168.7.20".parse().ok(),
            servers: vec![server],
            members: [("live".to_owned(), 3)].into(),
            ..Status::default()
        }
    }

    #[test]
    fn grade_is_the_worst_condition() {
        assert_eq!(status().grade(), Grade::AllUp);
        assert_eq!(Status::default().grade(), Grade::NotSetUp);
        let mut sick = status();
        sick.servers[0].class = "sick".to_owned();
        assert_eq!(sick.grade(), Grade::Degraded);
        sick.panic = true;
        assert_eq!(sick.grade(), Grade::Panic);
        let wrong = Status {
            wrong_sysctls: [("conntrack".to_owned(), "0".to_owned())].into(),
            ..status()
        };
        assert_eq!(wrong.grade(), Grade::Degraded);
    }

    #[test]
    fn json_round_trips() {
        let json = serde_json::to_string(&status()).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status());
    }

    #[test]
    fn every_sample_has_help_and_type() {
        let text = status().metrics();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            assert!(
                text.contains(&format!("# HELP {name} "))
                    && text.contains(&format!("# TYPE {name} ")),
                "{line}"
            );
            assert!(
                line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(),
                "{line}"
            );
        }
        assert!(
            text.contains("lvscare_up{rs=\"192.168.7.10:6443\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("lvscare_members{source=\"live\"} 3\n"),
            "{text}"
        );
    }
}
