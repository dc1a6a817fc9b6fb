//! What the daemon knows, for `status`, `/status` and `/metrics`.
//!
//! Data and its words; where it comes from is `care`, how it travels is `server`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::health::Class;
use crate::histogram::Histogram;
use crate::table::Actual;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub service: Option<SocketAddr>,
    /// Is our service in the kernel's table?
    pub present: bool,
    pub panic: bool,
    /// The source address of connections to the service.
    pub source: Option<IpAddr>,
    pub servers: Vec<Server>,
    /// Settings in `/proc/sys/net/ipv4/vs` that are not as they should be, with their values.
    pub wrong_sysctls: BTreeMap<String, String>,
    /// Since somebody else last removed our service.
    #[serde(default)]
    pub wiped_seconds_ago: Option<u64>,
    /// The last pass's error, if it failed.
    pub error: Option<String>,
    #[serde(default)]
    pub counters: Counters,
    /// How many servers each source tells of.
    #[serde(default)]
    pub members: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    pub address: SocketAddr,
    pub class: String,
    /// Seconds in this class.
    pub seconds: u64,
    /// What the last probe complained of.
    pub cause: Option<String>,
    /// Weight in the kernel; none if it is not there.
    pub weight: Option<u32>,
    pub active: u32,
    pub inactive: u32,
    /// The last probe's time.
    pub probe_seconds: f64,
    #[serde(default)]
    pub probes: Histogram,
    pub transitions: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// To the kernel's table, by request.
    pub changes: BTreeMap<String, u64>,
    /// Sockets of this host that were ended.
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
    /// What `fleet` and the table say of each server; `probe_seconds` and `transitions` are the caller's.
    pub fn servers(fleet: &Fleet, actual: &Actual, now: std::time::Instant) -> Vec<Server> {
        let server = |member: &crate::fleet::Member| {
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
        fleet.members().iter().map(server).collect()
    }

    /// What can be known without the daemon: nobody is judged.
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

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let address = self
            .service
            .map_or_else(|| "no service".to_owned(), |service| service.to_string());
        let source = self
            .source
            .map_or_else(|| "no route".to_owned(), |source| format!("from {source}"));
        let state = match (self.present, self.panic) {
            (false, _) => "not in the kernel",
            (true, true) => "PANIC: no server is up, all are tried",
            (true, false) => "in the kernel",
        };
        let _ = writeln!(text, "{address}  {source}  {state}");
        for server in &self.servers {
            let weight = server
                .weight
                .map_or_else(|| "-".to_owned(), |weight| weight.to_string());
            let cause = server.cause.as_deref().unwrap_or_default();
            let _ = writeln!(
                text,
                "  {:<24} {:<8} {:>7} s  weight {weight:<3} flows {}+{}  changes {}  {:.1} ms  {cause}",
                server.address.to_string(),
                server.class,
                server.seconds,
                server.active,
                server.inactive,
                server.transitions,
                server.probe_seconds * 1000.0,
            );
        }
        for (name, found) in &self.wrong_sysctls {
            let _ = writeln!(text, "  net.ipv4.vs.{name} is {found}");
        }
        if let Some(seconds) = self.wiped_seconds_ago {
            let times = self.counters.foreign_wipes;
            let _ = writeln!(
                text,
                "  removed by somebody else {times} times, last {seconds} s ago"
            );
        }
        if let Some(error) = &self.error {
            let _ = writeln!(text, "  {error}");
        }
        text
    }

    /// In Prometheus's text format.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, samples: Vec<(String, f64)>| {
            let _ = writeln!(
                text,
                "# HELP lvscare_{name} {help}\n# TYPE lvscare_{name} {kind}"
            );
            for (labels, value) in samples {
                let _ = writeln!(text, "lvscare_{name}{labels} {value}");
            }
        };
        let flag = |value: bool| f64::from(u8::from(value));
        #[allow(clippy::cast_precision_loss)] // Prometheus knows no other number.
        let count = |value: u64| vec![(String::new(), value as f64)];
        let per_server = |value: &dyn Fn(&Server) -> f64| {
            let sample =
                |server: &Server| (format!("{{rs=\"{}\"}}", server.address), value(server));
            self.servers.iter().map(sample).collect::<Vec<_>>()
        };
        metric(
            "service_present",
            "gauge",
            "The virtual server is in the kernel.",
            vec![(String::new(), flag(self.present))],
        );
        metric(
            "panic",
            "gauge",
            "No server is up and all are tried.",
            vec![(String::new(), flag(self.panic))],
        );
        metric(
            "up",
            "gauge",
            "The server is up.",
            per_server(&|server| flag(server.class == "up")),
        );
        let classes = self.servers.iter().flat_map(|server| {
            // One sample for each it could be, so that no series ends when the class changes.
            [Class::Unknown, Class::Up, Class::Sick, Class::Gone].map(|class| {
                let labels = format!("{{rs=\"{}\",class=\"{class}\"}}", server.address);
                (labels, flag(server.class == class.to_string()))
            })
        });
        metric(
            "class",
            "gauge",
            "1 for the server's class.",
            classes.collect(),
        );
        metric(
            "weight",
            "gauge",
            "Weight in the kernel, -1 if absent.",
            per_server(&|server| server.weight.map_or(-1.0, f64::from)),
        );
        metric(
            "last_probe_seconds",
            "gauge",
            "How long the last probe took.",
            per_server(&|server| server.probe_seconds),
        );
        metric(
            "active_connections",
            "gauge",
            "Established flows.",
            per_server(&|server| server.active.into()),
        );
        metric(
            "inactive_connections",
            "gauge",
            "Other flows.",
            per_server(&|server| server.inactive.into()),
        );
        #[allow(clippy::cast_precision_loss)] // As above.
        let transitions = per_server(&|server| server.transitions as f64);
        metric(
            "transitions_total",
            "counter",
            "Changes of class.",
            transitions,
        );
        #[allow(clippy::cast_precision_loss)] // As above.
        let changes = self
            .counters
            .changes
            .iter()
            .map(|(op, count)| (format!("{{op=\"{op}\"}}"), *count as f64));
        metric(
            "reconcile_ops_total",
            "counter",
            "Changes to the kernel's table.",
            changes.collect(),
        );
        #[allow(clippy::cast_precision_loss)] // As above.
        let killed = [
            ("destroyed", self.counters.flows_killed),
            ("expired", self.counters.flows_expired),
        ]
        .map(|(how, count)| (format!("{{how=\"{how}\"}}"), count as f64));
        metric(
            "flows_killed_total",
            "counter",
            "Flows to dead servers: this host's sockets ended at once, others' reset by the kernel at their next packet.",
            killed.to_vec(),
        );
        metric(
            "foreign_wipes_total",
            "counter",
            "Times others removed the service.",
            count(self.counters.foreign_wipes),
        );
        metric(
            "panics_total",
            "counter",
            "Times no server was up.",
            count(self.counters.panics),
        );
        let sysctls = self
            .wrong_sysctls
            .keys()
            .map(|name| (format!("{{name=\"{name}\"}}"), 1.0));
        metric(
            "sysctl_wrong",
            "gauge",
            "A kernel setting is not as it should be.",
            sysctls.collect(),
        );
        #[allow(clippy::cast_precision_loss)] // As above.
        let members = self
            .members
            .iter()
            .map(|(source, count)| (format!("{{source=\"{source}\"}}"), *count as f64));
        metric(
            "members",
            "gauge",
            "Servers that each source tells of.",
            members.collect(),
        );
        metric(
            "probe_seconds",
            "histogram",
            "How long probes took.",
            Vec::new(),
        );
        for server in &self.servers {
            let label = format!("rs=\"{}\"", server.address);
            server
                .probes
                .write(&mut text, "lvscare_probe_seconds", &label);
        }
        text
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
    fn the_grade_is_the_worst_that_is_true() {
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
    fn json_comes_back_as_it_went() {
        let json = serde_json::to_string(&status()).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status());
    }

    #[test]
    fn every_sample_has_its_help_and_its_type() {
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
