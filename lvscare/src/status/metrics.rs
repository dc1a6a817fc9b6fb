//! The status in Prometheus's text format.

use std::fmt::Write;

use super::{Server, Status};
use crate::pool::health::Class;

impl Status {
    /// All metrics, each with HELP and TYPE.
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
        #[allow(clippy::cast_precision_loss)] // Prometheus values are floats.
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
            // One sample for each class, so that no series ends when the class changes.
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
