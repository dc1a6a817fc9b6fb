//! Sends requests to the apiservers through the VIP of a worker, and records the worker's IPVS
//! table.
//!
//! Two shell scripts in the guest do that, with programs of the image and on the guest's clock.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};

use super::script;
use crate::machine::vm::Vm;

const FOLDER: &str = "/run/firstlight-requests";

/// Prints the servers of the IPVS table that get new connections: one line, sorted.
const IPVS_SERVERS: &str = include_str!("ipvs_servers.sh");

const SEND_REQUESTS: &str = include_str!("send_requests.sh");

/// The two scripts, running on a worker.
#[derive(Debug)]
pub struct RequestMonitor<'a>(&'a Vm);

/// Times are seconds since the guest's boot, by its own clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub from: f64,
    pub to: f64,
    /// The status line of the answer, or the error.
    pub answer: String,
}

impl Request {
    pub fn is_ok(&self) -> bool {
        self.answer.starts_with("HTTP/") && self.answer.split_whitespace().nth(1) == Some("200")
    }
}

/// All requests and all states of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub requests: Vec<Request>,
    /// The servers of the table from each time on.
    pub tables: Vec<(f64, BTreeSet<String>)>,
}

impl<'a> RequestMonitor<'a> {
    /// Starts both scripts, and returns when the first request has ended.
    pub fn start(node: &'a Vm, domain: &str) -> Result<Self> {
        node.shell(&format!("rm -rf {FOLDER}"))?;
        let (requests, table) = (format!("{FOLDER}/requests"), format!("{FOLDER}/table"));
        let arguments = [domain, requests.as_str()];
        script::start(node, "requests", FOLDER, SEND_REQUESTS, &arguments)
            .context("starting the requests")?;
        script::record_changes(node, "table", FOLDER, IPVS_SERVERS, &[], &table)
            .context("recording the IPVS table")?;
        node.shell(&format!(
            "until [ -s {requests} ] && [ -s {table} ]; do sleep 0.2; done"
        ))
        .context("waiting for the first request")?;
        Ok(Self(node))
    }

    /// Waits until the last recorded table contains `server` (`present`), or until any recorded
    /// table lacks it.
    pub fn wait_for_table(&self, guest: Duration, server: &str, present: bool) -> Result<()> {
        // IPVS does not notify of changes, so this polls what the script has recorded.
        let condition = if present {
            format!("tail -n1 {FOLDER}/table | grep -qF '{server}'")
        } else {
            format!("grep -qvF '{server}' {FOLDER}/table")
        };
        let what = if present { "to return" } else { "to leave" };
        self.0
            .shell_within(&format!("until {condition}; do sleep 0.2; done"), guest)
            .with_context(|| format!("waiting for {server} {what}"))?;
        Ok(())
    }

    /// Waits until `count` more requests have ended.
    pub fn wait_for_requests(&self, guest: Duration, count: usize) -> Result<()> {
        let script = format!(
            "n=$(wc -l <{FOLDER}/requests); \
             until [ $(wc -l <{FOLDER}/requests) -ge $((n + {count})) ]; do sleep 0.2; done"
        );
        self.0.shell_within(&script, guest)?;
        Ok(())
    }

    pub fn stop(self) -> Result<Report> {
        let text = self.0.shell(&format!(
            "systemctl stop firstlight-requests firstlight-table; \
             cat {FOLDER}/requests; echo; cat {FOLDER}/table"
        ))?;
        parse(&text).with_context(|| format!("reading the recorded requests: `{text}`"))
    }
}

/// Waits until the node's IPVS table contains exactly these servers.
pub fn wait_for_servers(node: &Vm, guest: Duration, servers: &BTreeSet<String>) -> Result<()> {
    let expected: String = servers.iter().map(|server| format!("{server} ")).collect();
    let script = format!("until [ \"$(\n{IPVS_SERVERS})\" = '{expected}' ]; do sleep 0.5; done");
    node.shell_within(&script, guest)
        .with_context(|| format!("waiting for an IPVS table with {expected}"))?;
    Ok(())
}

fn parse(text: &str) -> Result<Report> {
    let (requests, table) = text
        .split_once("\n\n")
        .context("no empty line between requests and table")?;
    let request = |line: &str| -> Option<Request> {
        let mut words = line.splitn(3, ' ');
        Some(Request {
            from: words.next()?.parse().ok()?,
            to: words.next()?.parse().ok()?,
            answer: words.next()?.trim().to_string(),
        })
    };
    let state = |line: &str| -> Option<(f64, BTreeSet<String>)> {
        let (at, servers) = line.split_once(' ')?;
        let servers = servers.split_whitespace().map(str::to_string).collect();
        Some((at.parse().ok()?, servers))
    };
    let context = |line: &str| format!("line `{line}`");
    Ok(Report {
        requests: requests
            .lines()
            .map(|line| request(line).with_context(|| context(line)))
            .collect::<Result<_>>()?,
        tables: table
            .lines()
            .map(|line| state(line).with_context(|| context(line)))
            .collect::<Result<_>>()?,
    })
}

impl Report {
    /// The periods in which `server` was not in the table. The last one lasts until the end of the
    /// last request if the server has not returned.
    pub fn absences(&self, server: &str) -> Vec<(f64, f64)> {
        let end = self.requests.last().map_or(0.0, |request| request.to);
        let mut found = Vec::new();
        let mut since = None;
        for (at, servers) in &self.tables {
            match (servers.contains(server), since) {
                (false, None) => since = Some(*at),
                (true, Some(left)) => {
                    found.push((left, *at));
                    since = None;
                }
                _ => {}
            }
        }
        found.extend(since.map(|left| (left, end)));
        found
    }

    /// The requests that failed while `server` was not in the table, so that it cannot be the
    /// cause.
    pub fn failed_without(&self, server: &str) -> Vec<&Request> {
        let absences = self.absences(server);
        let inside = |request: &&Request| {
            absences
                .iter()
                .any(|(left, back)| request.from >= *left && request.to <= *back)
        };
        let failed = self.requests.iter().filter(|request| !request.is_ok());
        failed.filter(inside).collect()
    }

    /// The length of the longest series of failed requests, from the start of its first to the end
    /// of its last.
    pub fn longest_failure(&self) -> f64 {
        let mut longest = 0.0_f64;
        let mut since = None;
        for request in &self.requests {
            if request.is_ok() {
                since = None;
            } else {
                let start = *since.get_or_insert(request.from);
                longest = longest.max(request.to - start);
            }
        }
        longest
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: Vec<_> = self.requests.iter().filter(|one| !one.is_ok()).collect();
        write!(
            f,
            "{} requests, {} failed, longest failure {:.1} s",
            self.requests.len(),
            failed.len(),
            self.longest_failure()
        )?;
        for request in failed.iter().take(5) {
            write!(f, "; {:.1} s: `{}`", request.from, request.answer)?;
        }
        for (at, servers) in &self.tables {
            write!(f, "; table at {at:.1} s: {servers:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: &str = "\
1.00 1.20 HTTP/1.0 200 OK\r
1.20 3.20 connect error
3.20 3.90 
3.90 4.00 HTTP/1.0 200 OK
4.00 4.10 HTTP/1.0 500 Internal Server Error
4.50 9.00 connect error

0.90 10.0.0.1:6443 10.0.0.2:6443 
3.00 10.0.0.1:6443 
4.20 10.0.0.1:6443 10.0.0.2:6443 
5.00 10.0.0.1:6443 
";

    #[test]
    fn report_contains_failures_and_absences() -> Result<()> {
        let report = parse(SEEN)?;
        assert_eq!(report.requests.len(), 6);
        assert!(report.requests[0].is_ok() && !report.requests[4].is_ok());
        assert!((report.longest_failure() - 5.0).abs() < 1e-9);
        assert_eq!(
            report.absences("10.0.0.2:6443"),
            [(3.0, 4.2), (5.0, 9.0)],
            "the last absence lasts until the end"
        );
        let failed: Vec<_> = report
            .failed_without("10.0.0.2:6443")
            .iter()
            .map(|request| request.from)
            .collect();
        assert_eq!(failed, [3.2, 4.0], "only requests inside an absence");
        assert!(report.absences("10.0.0.1:6443").is_empty());
        assert!(
            report
                .to_string()
                .starts_with("6 requests, 4 failed, longest failure 5.0 s")
        );
        assert!(parse("1 2 x\n").is_err());
        Ok(())
    }
}
