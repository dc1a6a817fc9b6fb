//! A node's way to the apiservers, watched while it is used: one request after another through the VIP, and every change
//! of the IPVS table, both on the guest's own clock.
//!
//! With the image's own programs; nothing is brought into the guest but two shell loops.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::guest_loop::{self, on_change};
use crate::vm::Vm;

const FOLDER: &str = "/run/firstlight-asking";

/// The servers of the table that get new connections: one line, sorted.
const SERVERS: &str = r"ipvsadm -Ln | sed -n 's/^ *-> \([0-9.]*:6443\) *[A-Za-z]* *[1-9][0-9]* .*/\1/p' | sort | tr '\n' ' '";

/// A new connection for each, because that is what a dead server takes.
const ASK: &str = r#"while :; do
  read from _ </proc/uptime
  answer=$(printf 'GET /readyz HTTP/1.0\r\n\r\n' | timeout 10 openssl s_client -quiet -verify_return_error \
    -verify_hostname @DOMAIN@ -CAfile /etc/kubernetes/pki/ca.crt -connect @DOMAIN@:6443 2>&1 | grep '^HTTP\|rror' | head -n1)
  read to _ </proc/uptime
  echo "$from $to $answer" >>@FOLDER@/asked
done
"#;

/// Both loops, running on a node.
#[derive(Debug)]
pub struct Asking<'a>(&'a Vm);

/// Times are seconds since the guest's boot, by its own clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub from: f64,
    pub to: f64,
    /// What came back: the status line, or the error.
    pub answer: String,
}

impl Request {
    pub fn is_ok(&self) -> bool {
        self.answer.starts_with("HTTP/") && self.answer.split_whitespace().nth(1) == Some("200")
    }
}

/// What was seen until the end.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub requests: Vec<Request>,
    /// The table from that time on.
    pub tables: Vec<(f64, BTreeSet<String>)>,
}

impl<'a> Asking<'a> {
    /// Returns when the first request was answered.
    pub fn start(node: &'a Vm, domain: &str) -> Result<Self> {
        let ask = ASK.replace("@DOMAIN@", domain).replace("@FOLDER@", FOLDER);
        node.ok(&format!("rm -rf {FOLDER}"))?;
        let table = on_change(SERVERS, &format!("{FOLDER}/table"));
        for (name, script) in [("ask", ask), ("watch", table)] {
            guest_loop::start(node, name, FOLDER, &script).context("starting to ask")?;
        }
        node.ok(&format!(
            "until [ -s {FOLDER}/asked ] && [ -s {FOLDER}/table ]; do sleep 0.2; done"
        ))
        .context("waiting for the first answer")?;
        Ok(Self(node))
    }

    /// Waits until `server` has left the table since the start, or is in it (again).
    pub fn wait_for_table(&self, guest: Duration, server: &str, present: bool) -> Result<()> {
        // IPVS tells nobody of its changes.
        let question = if present {
            format!("tail -n1 {FOLDER}/table | grep -qF '{server}'")
        } else {
            format!("grep -qvF '{server}' {FOLDER}/table")
        };
        let what = if present { "to return" } else { "to leave" };
        self.0
            .ok_within(&format!("until {question}; do sleep 0.2; done"), guest)
            .with_context(|| format!("waiting for {server} {what}"))?;
        Ok(())
    }

    /// Lets `count` more requests come to their end.
    pub fn wait_for_requests(&self, guest: Duration, count: usize) -> Result<()> {
        let script = format!(
            "n=$(wc -l <{FOLDER}/asked); until [ $(wc -l <{FOLDER}/asked) -ge $((n + {count})) ]; do sleep 0.2; done"
        );
        self.0.ok_within(&script, guest)?;
        Ok(())
    }

    pub fn stop(self) -> Result<Report> {
        let text = self.0.ok(&format!(
            "systemctl stop firstlight-ask firstlight-watch; cat {FOLDER}/asked; echo; cat {FOLDER}/table"
        ))?;
        parse(&text).with_context(|| format!("reading what was asked: `{text}`"))
    }
}

/// Waits until the node's table leads to exactly these servers.
pub fn wait_for_servers(node: &Vm, guest: Duration, servers: &BTreeSet<String>) -> Result<()> {
    let wanted: String = servers.iter().map(|server| format!("{server} ")).collect();
    let script = format!("until [ \"$({SERVERS})\" = '{wanted}' ]; do sleep 0.5; done");
    node.ok_within(&script, guest)
        .with_context(|| format!("waiting for a table with {wanted}"))?;
    Ok(())
}

fn parse(text: &str) -> Result<Report> {
    let (asked, table) = text
        .split_once("\n\n")
        .context("no empty line between the two")?;
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
    let unread = |line: &str| format!("line `{line}`");
    Ok(Report {
        requests: asked
            .lines()
            .map(|line| request(line).with_context(|| unread(line)))
            .collect::<Result<_>>()?,
        tables: table
            .lines()
            .map(|line| state(line).with_context(|| unread(line)))
            .collect::<Result<_>>()?,
    })
}

impl Report {
    /// When `server` was out of the table; one that stayed away did so until the last request's end.
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

    /// Requests that were made and failed while `server` was out of the table: a dead server has no part in those.
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

    /// From the beginning of the first of some failed requests in a row to the end of the last, the longest of these.
    pub fn longest_failure(&self) -> f64 {
        let mut longest = 0.0_f64;
        let mut since = None;
        for request in &self.requests {
            if request.is_ok() {
                since = None;
            } else {
                let begun = *since.get_or_insert(request.from);
                longest = longest.max(request.to - begun);
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
            "{} requests, {} failed, for {:.1} s at most",
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
    fn what_failed_and_for_how_long_is_read_from_both_loops() -> Result<()> {
        let report = parse(SEEN)?;
        assert_eq!(report.requests.len(), 6);
        assert!(report.requests[0].is_ok() && !report.requests[4].is_ok());
        assert!((report.longest_failure() - 5.0).abs() < 1e-9);
        assert_eq!(
            report.absences("10.0.0.2:6443"),
            [(3.0, 4.2), (5.0, 9.0)],
            "the last one lasts until the end"
        );
        let failed: Vec<_> = report
            .failed_without("10.0.0.2:6443")
            .iter()
            .map(|request| request.from)
            .collect();
        assert_eq!(failed, [3.2, 4.0], "those inside, and not those across");
        assert!(report.absences("10.0.0.1:6443").is_empty());
        assert!(
            report
                .to_string()
                .starts_with("6 requests, 4 failed, for 5.0 s")
        );
        assert!(parse("1 2 x\n").is_err());
        Ok(())
    }
}
