//! Runs shell scripts in the guest as root, one at a time, over the machine's command port.
//!
//! The other end is `command_loop.sh`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::host::process::tail;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug)]
pub struct Guest {
    channel: Mutex<Channel>,
}

#[derive(Debug)]
struct Channel {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    count: u64,
}

impl Guest {
    pub fn new(stream: UnixStream) -> Result<Self> {
        let channel = Channel {
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
            count: 0,
        };
        Ok(Self {
            channel: Mutex::new(channel),
        })
    }

    /// Runs `script` with `/bin/sh`. A non-zero exit status is not an error.
    pub fn run(&self, script: &str, deadline: Duration) -> Result<Output> {
        let mut channel = self.channel.lock().unwrap_or_else(|bad| bad.into_inner());
        channel
            .run(script, deadline)
            .with_context(|| format!("running `{script}` in the guest"))
    }

    /// Runs `script`, which must succeed, and returns its stdout.
    pub fn shell(&self, script: &str, deadline: Duration) -> Result<String> {
        let output = self.run(script, deadline)?;
        if output.status != 0 {
            let stderr = tail(output.stderr.trim_end(), 8);
            bail!(
                "running `{script}` in the guest: exit status {}: {stderr}",
                output.status
            );
        }
        Ok(output.stdout)
    }
}

impl Channel {
    fn run(&mut self, script: &str, deadline: Duration) -> Result<Output> {
        self.count += 1;
        let number = self.count.to_string();
        let line = format!("{number} {}\n", STANDARD.encode(script));
        // QEMU has the other end of the socket, so the write fails only if QEMU has ended.
        self.writer
            .write_all(line.as_bytes())
            .context("the machine is off")?;
        let end = Instant::now() + deadline;
        loop {
            let Some(rest) = end
                .checked_duration_since(Instant::now())
                .filter(|rest| !rest.is_zero())
            else {
                bail!("no answer within {deadline:?}");
            };
            self.reader.get_ref().set_read_timeout(Some(rest))?;
            let mut line = String::new();
            match self.reader.read_line(&mut line) {
                Ok(0) => bail!("the machine is off"),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            // The answer to an earlier command may arrive after its deadline; it is ignored.
            if let [answered, status, stdout, stderr] = words[..]
                && answered == number
            {
                return Ok(Output {
                    status: status.parse()?,
                    stdout: decode(stdout)?,
                    stderr: decode(stderr)?,
                });
            }
        }
    }
}

/// The guest appends `=` to each field, so that an empty field is still a word.
fn decode(field: &str) -> Result<String> {
    let bytes = STANDARD.decode(field.strip_suffix('=').unwrap_or(field))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_answer_is_ignored_by_the_next_command() -> Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        let guest = Guest::new(ours)?;
        assert!(guest.run("sleep", Duration::from_millis(20)).is_err());
        writeln!(&theirs, "1 0 bGF0ZQ=== =\n2 3 b2s== =")?;
        let output = guest.run("echo ok; exit 3", Duration::from_secs(60))?;
        assert_eq!(
            output,
            Output {
                status: 3,
                stdout: "ok".into(),
                stderr: String::new()
            }
        );
        Ok(())
    }
}
