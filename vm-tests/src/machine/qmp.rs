//! QEMU's control socket: QMP, which is one line of JSON for each command, answer and event.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// QEMU on a busy host answers late; a dead one closes the socket.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    /// Events that arrived before the answer to a command.
    events: VecDeque<Value>,
}

impl Qmp {
    /// Negotiates capabilities on a new connection.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let mut qmp = Self {
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
            events: VecDeque::new(),
        };
        let greeting = qmp.read()?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU sends {greeting} in place of its greeting");
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs one command and returns its result.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({"execute": command, "arguments": arguments});
        writeln!(self.writer, "{line}").with_context(|| format!("sending QMP `{command}`"))?;
        loop {
            let answer = self
                .read()
                .with_context(|| format!("waiting for QMP `{command}`"))?;
            if let Some(result) = answer.get("return") {
                return Ok(result.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!(
                    "QMP `{command}`: {}",
                    error["desc"].as_str().unwrap_or("no description")
                );
            }
            self.events.push_back(answer);
        }
    }

    /// Writes the state of a paused machine to a file (`migrate`), or reads it
    /// (`migrate-incoming`).
    pub fn migrate(&mut self, command: &str, state: &Path, deadline: Duration) -> Result<()> {
        let events = json!([{"capability": "events", "state": true}]);
        self.execute("migrate-set-capabilities", json!({"capabilities": events}))?;
        // The default limit is meant for networks, and a slowed clock makes it smaller still.
        self.execute(
            "migrate-set-parameters",
            json!({"max-bandwidth": 1u64 << 40}),
        )?;
        self.events.clear();
        self.execute(command, json!({"uri": format!("file:{}", state.display())}))?;
        let end = Instant::now() + deadline;
        loop {
            let event = self
                .event(end)
                .with_context(|| format!("waiting for QMP `{command}`"))?;
            if event["event"] != "MIGRATION" {
                continue;
            }
            match event["data"]["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let answer = self.execute("query-migrate", json!({}))?;
                    let why = answer["error-desc"].as_str().unwrap_or("no description");
                    bail!("QMP `{command}` of `{}`: {why}", state.display());
                }
                _ => {}
            }
        }
    }

    /// The next event that nothing has read yet.
    fn event(&mut self, end: Instant) -> Result<Value> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        let rest = end.saturating_duration_since(Instant::now());
        // A timeout of zero is an error.
        let socket = self.reader.get_ref();
        socket.set_read_timeout(Some(rest.max(Duration::from_millis(1))))?;
        let event = self.read();
        self.reader
            .get_ref()
            .set_read_timeout(Some(ANSWER_WITHIN))?;
        event
    }

    /// Takes a screenshot of the guest.
    pub fn screendump(&mut self, path: &Path) -> Result<()> {
        self.execute("screendump", json!({"filename": path, "format": "png"}))?;
        Ok(())
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU closed its control socket");
        }
        serde_json::from_str(&line)
            .with_context(|| format!("reading QMP line `{}`", line.trim_end()))
    }
}
