//! A server as a process of this host: its start, its readiness, what it takes of processors, its end.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::tools;

/// A server that was started has this long to answer: tens of times what it needs on a quiet host.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A process that ends with its value, at once and without a farewell.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a command as a server; what it says is added to `log`.
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

    /// What its process has used of processors since its start, in steps of 10 ms; proc_pid_stat(5).
    pub fn processor_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("reading `{path}`"))?;
        // The name, which may hold anything, ends at the last parenthesis; utime and stime are fields 14 and 15.
        let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || -> Option<u64> { fields.next()?.parse().ok() };
        let (Some(user), Some(system)) = (ticks(), ticks()) else {
            bail!("`{path}` holds no times: {text}");
        };
        // sysconf(_SC_CLK_TCK) is 100 on every architecture that Linux has user space for.
        Ok(Duration::from_millis(10 * (user + system)))
    }

    /// As [`run_time`].
    pub fn run_time(&self) -> Result<Duration> {
        run_time(self.child.id())
    }

    /// Asks until there is an answer; an error where the server ends before, or none comes in time.
    pub fn wait<T>(&mut self, what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            let error = match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let state = ended.map_or("it runs".to_owned(), |status| status.to_string());
                bail!(
                    "{} does not {what} ({state}): {error:#}\n{}",
                    self.name,
                    tools::tail(&log, 12)
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

/// What the threads of a process have used of processors since their start, to the nanosecond; of threads that ended
/// nothing. Where the kernel keeps no scheduler statistics that is an error.
pub fn run_time(process: u32) -> Result<Duration> {
    let folder = format!("/proc/{process}/task");
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(&folder).with_context(|| format!("reading `{folder}`"))? {
        let path = thread?.path().join("schedstat");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))?;
        let first = text.split_whitespace().next().map(str::parse);
        let Some(Ok(nanoseconds)) = first else {
            bail!("`{}` holds no time: {text}", path.display());
        };
        sum += Duration::from_nanos(nanoseconds);
    }
    Ok(sum)
}

pub(crate) fn end(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}
