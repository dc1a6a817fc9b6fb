//! QEMU's control socket: one command, one answer (QMP, line-wise JSON).
//!
//! Events are kept, not dispatched: nobody here needs to be called back.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Greets QEMU on a fresh connection.
    pub fn new(stream: UnixStream) -> Result<Self> {
        // A machine under load answers late, a dead one closes the socket.
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut qmp = Self {
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
        };
        let greeting = qmp.read()?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU greeted with {greeting}");
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
        }
    }

    /// A picture of the guest's screen.
    pub fn screendump(&mut self, path: &Path) -> Result<()> {
        self.execute("screendump", json!({"filename": path, "format": "png"}))?;
        Ok(())
    }

    /// Runs a background job (`snapshot-save`, `snapshot-load`) to its end.
    pub fn run_job(
        &mut self,
        command: &str,
        mut arguments: Value,
        deadline: Duration,
    ) -> Result<()> {
        let id = format!("firstlight-{command}");
        arguments["job-id"] = json!(id);
        self.execute(command, arguments)?;
        let end = Instant::now() + deadline;
        loop {
            let jobs = self.execute("query-jobs", json!({}))?;
            let job = jobs
                .as_array()
                .and_then(|jobs| jobs.iter().find(|job| job["id"] == id.as_str()));
            let Some(job) = job else {
                bail!("QMP `{command}`: its job is gone")
            };
            if job["status"] == "concluded" {
                let error = job["error"].as_str().map(str::to_string);
                self.execute("job-dismiss", json!({"id": id}))?;
                return match error {
                    Some(error) => bail!("QMP `{command}`: {error}"),
                    None => Ok(()),
                };
            }
            if Instant::now() > end {
                bail!(
                    "QMP `{command}`: still {} after {deadline:?}",
                    job["status"]
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
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
