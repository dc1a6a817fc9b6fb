//! Network namespaces, one for each host of a testbed. An open descriptor keeps a namespace alive;
//! it has no name in the file system.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, ensure};
use nix::sched::{CloneFlags, setns, unshare};

#[derive(Debug, Clone)]
pub(crate) struct Netns {
    pub(crate) name: String,
    namespace: Arc<File>,
}

impl Netns {
    /// Creates an empty namespace with loopback up.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            anyhow::Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let namespace = made.join().unwrap_or_else(|_| anyhow::bail!("panicked"));
        let netns = Self {
            name: name.to_owned(),
            namespace: Arc::new(namespace.with_context(|| format!("creating namespace `{name}`"))?),
        };
        // Duplicate address detection would delay IPv6 addresses by two seconds.
        netns.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/accept_dad", "0"))?;
        netns.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0"))?;
        netns.ip("link set lo up\n")?;
        Ok(netns)
    }

    /// Runs `work` in a thread inside the namespace, with its sockets, `/proc/sys/net` and
    /// children.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(self.namespace.as_ref(), CloneFlags::CLONE_NEWNET)
                .unwrap_or_else(|error| panic!("entering `{}`: {error}", self.name));
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Like `run`, in the background.
    pub(crate) fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        let namespace = Arc::clone(&self.namespace);
        std::thread::spawn(move || {
            if setns(namespace.as_ref(), CloneFlags::CLONE_NEWNET).is_ok() {
                work();
            }
        });
    }

    pub(crate) fn start(&self, command: &mut Command) -> anyhow::Result<Child> {
        self.run(|| command.spawn())
            .with_context(|| format!("starting {command:?} in `{}`", self.name))
    }

    /// Runs a program that must succeed.
    pub(crate) fn call(&self, line: &str) -> anyhow::Result<()> {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().context("the command is empty")?);
        self.feed(command.args(words), "")
            .with_context(|| format!("running `{line}` in `{}`", self.name))
    }

    /// Runs lines of `ip`.
    pub(crate) fn ip(&self, lines: &str) -> anyhow::Result<()> {
        self.feed(Command::new("ip").args(["-batch", "-"]), lines)
            .with_context(|| format!("`ip` in `{}`: {lines}", self.name))
    }

    /// Runs a ruleset of `nft`.
    pub(crate) fn nft(&self, rules: &str) -> anyhow::Result<()> {
        self.feed(Command::new("nft").args(["-f", "-"]), rules)
            .with_context(|| format!("`nft` in `{}`", self.name))
    }

    /// The path of the namespace for `ip link ... netns`.
    pub(crate) fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.namespace.as_raw_fd()
        )
    }

    fn feed(&self, command: &mut Command, input: &str) -> anyhow::Result<()> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = self.start(command)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{}: {}",
            output.status,
            stderr.trim()
        );
        Ok(())
    }
}
