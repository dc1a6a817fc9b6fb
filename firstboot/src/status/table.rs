//! The answers of all hosts as a table.

use super::host::{Answer, Host, is_ready};
use super::text::{age, tries};

const HEADINGS: [&str; 7] = [
    "HOST",
    "ROLE",
    "PHASE",
    "STEP",
    "WAITING FOR",
    "SINCE",
    "LAST ANSWER",
];

/// One line for each host, and a last one with the number of ready hosts.
pub(crate) fn text(rows: &[(Host, Answer)]) -> String {
    let lines: Vec<_> = std::iter::once(HEADINGS.map(str::to_owned))
        .chain(rows.iter().map(|(host, answer)| cells(host, answer)))
        .collect();
    let mut text = String::new();
    for line in &lines {
        for (at, cell) in line.iter().enumerate() {
            let width = lines.iter().map(|line| line[at].chars().count()).max();
            text += &format!("{cell:<width$}   ", width = width.unwrap_or(0));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    let ready = rows.iter().filter(|(_, answer)| is_ready(answer)).count();
    text + &format!("{ready} of {} hosts are ready\n", rows.len())
}

fn cells(host: &Host, answer: &Answer) -> [String; 7] {
    let none = || "-".to_owned();
    let [phase, step, endpoint, since, last_answer] = match answer {
        Err(reason) => [
            "unreachable".to_owned(),
            none(),
            none(),
            none(),
            one_line(reason),
        ],
        Ok(report) => {
            let status = &report.status;
            let step = status.step.as_ref().map_or_else(none, |step| {
                format!("{}/{} {step}", status.step_number, status.step_count)
            });
            let (endpoint, since, last_answer) = match &status.waiting {
                Some(waiting) => (
                    one_line(&waiting.endpoint),
                    format!(
                        "{} ({})",
                        age(report.uptime.saturating_sub(waiting.since_uptime)),
                        tries(waiting.tries)
                    ),
                    one_line(&waiting.answer),
                ),
                None if status.reasons.is_empty() => (none(), none(), none()),
                None => (none(), none(), one_line(&status.reasons.join("; "))),
            };
            [
                status.phase.word().to_owned(),
                step,
                endpoint,
                since,
                last_answer,
            ]
        }
    };
    let role = host.role.to_string();
    [
        host.name.clone(),
        role,
        phase,
        step,
        endpoint,
        since,
        last_answer,
    ]
}

/// Removes line breaks and control characters: the text comes from other hosts.
fn one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|one| !one.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use userdata::node_config::Role;

    use super::*;
    use crate::status::{Phase, Status, StatusReport, Waiting};

    #[test]
    fn table_shows_ready_waiting_failed_and_absent_hosts() {
        let host = |name: &str, role| Host {
            name: name.into(),
            role,
            address: [192, 168, 7, 10].into(),
        };
        let status = |phase| Status {
            phase,
            ..Status::default()
        };
        let waiting = Waiting {
            endpoint: "the lease firstlight-join at https://192.168.7.10:6443".into(),
            answer: "m1 is\njoining".into(),
            tries: 40,
            since: 0,
            since_uptime: 100,
        };
        let report = |status| {
            Ok(StatusReport {
                uptime: 161,
                status,
            })
        };
        let rows = [
            (host("m0", Role::Master0), report(status(Phase::Ready))),
            (
                host("m2", Role::Master),
                report(Status {
                    step: Some("etcd-member".into()),
                    step_number: 9,
                    step_count: 11,
                    waiting: Some(waiting),
                    ..status(Phase::Working)
                }),
            ),
            (
                host("n0", Role::Node),
                report(Status {
                    reasons: vec!["applying step `files`: disk \u{1b}[2Jfull".into()],
                    ..status(Phase::Failed)
                }),
            ),
            (
                host("n1", Role::Node),
                Err("asking 192.168.7.21:6440: connection refused".into()),
            ),
        ];
        insta::assert_snapshot!(text(&rows));
    }
}
