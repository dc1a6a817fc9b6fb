//! The status as text, for people.

use std::fmt::Write;

use super::Status;

impl Status {
    /// A line for the service and one for each server.
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
            (true, true) => "PANIC: no healthy server, failing open",
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
                "  removed externally {times} times, last {seconds} s ago"
            );
        }
        if let Some(error) = &self.error {
            let _ = writeln!(text, "  {error}");
        }
        text
    }
}
