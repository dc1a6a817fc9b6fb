//! Processes of this host: short programs, and servers with their readiness and processor time.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a server may take to become ready: tens of times what it needs on an idle host.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// A server process. Dropping it kills the process.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command` and appends its output to `log`.
    pub(crate) fn start(name: &str, log: PathBuf, command: &mut Command) -> Result<Self> {
        let output = File::options().create(true).append(true).open(&log)?;
        command.stdout(output.try_clone()?).stderr(output);
        let child = command
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// The processor time of the process since its start, in steps of 10 ms; proc_pid_stat(5).
    pub fn processor_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("reading `{path}`"))?;
        // The name may contain anything and ends at the last parenthesis. utime and stime are
        // fields 14 and 15.
        let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || -> Option<u64> { fields.next()?.parse().ok() };
        let (Some(user), Some(system)) = (ticks(), ticks()) else {
            bail!("`{path}` has no utime and stime: {text}");
        };
        // sysconf(_SC_CLK_TCK) is 100 on every architecture that Linux has user space for.
        Ok(Duration::from_millis(10 * (user + system)))
    }

    /// Asks the process to end, as kubelet does before it kills one.
    pub fn terminate(&self) -> Result<()> {
        let id = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(id, Signal::SIGTERM).with_context(|| format!("ending {}", self.name))
    }

    /// See [`run_time`].
    pub fn run_time(&self) -> Result<Duration> {
        run_time(self.child.id())
    }

    /// Repeats `ask` until it succeeds. Fails if the server ends or the timeout passes first.
    pub fn wait<T>(&mut self, what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
        let end = Instant::now() + READY_TIMEOUT;
        loop {
            let error = match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let state = ended.map_or("still running".to_owned(), |status| status.to_string());
                bail!(
                    "{} does not {what} ({state}): {error:#}\n{}",
                    self.name,
                    tail(&log, 12)
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// The processor time of the current threads of a process, in nanoseconds. Threads that have ended
/// do not count. Fails if the kernel keeps no scheduler statistics.
pub fn run_time(process: u32) -> Result<Duration> {
    let folder = format!("/proc/{process}/task");
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(&folder).with_context(|| format!("reading `{folder}`"))? {
        let path = thread?.path().join("schedstat");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))?;
        let first = text.split_whitespace().next().map(str::parse);
        let Some(Ok(nanoseconds)) = first else {
            bail!("`{}` has no run time: {text}", path.display());
        };
        sum += Duration::from_nanos(nanoseconds);
    }
    Ok(sum)
}

/// Kills a process and waits for its end.
pub(crate) fn end(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}

/// Runs a program to its end and returns its stdout. If it fails, the end of stderr is the error.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{command:?}: {}: {}",
            output.status,
            tail(stderr.trim_end(), 8)
        );
    }
    Ok(output.stdout)
}

/// The last `count` lines.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
