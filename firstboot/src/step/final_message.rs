//! `final_message`: a line at the end of every boot.

use std::fmt;

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

use super::Step;
use crate::report::Reporter;

#[derive(Debug)]
pub struct FinalMessage {
    pub text: String,
    /// Where the document came from.
    pub source: String,
}

impl fmt::Display for FinalMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("show the document's final message")
    }
}

impl Step for FinalMessage {
    fn name(&self) -> &'static str {
        "final-message"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(false)
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .map_or(0.0, |now| now.tv_sec() as f64 + now.tv_nsec() as f64 / 1e9);
        let time = clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |time| time.tv_sec());
        let text = filled(&self.text, |name| match name {
            "uptime" => Some(format!("{now:.2}")),
            "timestamp" => Some(time.to_string()),
            "version" => Some(env!("CARGO_PKG_VERSION").to_owned()),
            "datasource" => Some(self.source.clone()),
            _ => None,
        });
        for line in text.lines() {
            log::info!("{line}");
            report.console_only(line);
        }
        Ok(())
    }

    fn is_lasting(&self) -> bool {
        false
    }
}

/// As cloud-init's basic templates: `$NAME` and `${NAME}`, in either case. What has no value stays.
pub(super) fn filled(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, end) = match after.strip_prefix('{') {
            Some(inner) => match inner.find('}') {
                Some(end) => (&inner[..end], end + 2),
                None => ("", 0),
            },
            None => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = after.find(|c| !word(c)).unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        match value(&name.to_ascii_lowercase()) {
            Some(value) => out.push_str(&value),
            None => {
                out.push('$');
                out.push_str(&after[..end]);
            }
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_and_other_dollars_stay() {
        let value = |name: &str| (name == "uptime").then(|| "1.5".to_owned());
        for (text, expected) in [
            ("up $UPTIME s", "up 1.5 s"),
            ("${uptime}s $OTHER", "1.5s $OTHER"),
            ("100$ ${open $", "100$ ${open $"),
            ("", ""),
        ] {
            assert_eq!(filled(text, value), expected);
        }
    }
}
