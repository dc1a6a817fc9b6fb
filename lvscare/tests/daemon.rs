//! The daemon as a process: resources, signals and exit status. Runs in a network namespace, with
//! or without IPVS, with apiservers in this process. Needs root; skips otherwise, which CI rejects.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

#[allow(dead_code, reason = "`probe` and `discover` use the rest")]
mod apiserver;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apiserver::{Apiserver, Authority, Behaviour};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

const STATUS: &str = "127.0.0.1:10354";

/// Runs a test in its own thread and network namespace, with three apiservers on loopback.
fn in_a_node(test: impl FnOnce(&Authority, &str) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let lo = |_| {
            let up = Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status();
            anyhow::ensure!(up.is_ok_and(|status| status.success()), "`ip` failed");
            Ok(())
        };
        let entered = unshare(CloneFlags::CLONE_NEWNET).map_err(anyhow::Error::from);
        if let Err(error) = entered.and_then(lo) {
            eprintln!("skipped: no network namespace: {error:#}");
            assert!(std::env::var_os("CI").is_none(), "{error:#}");
            return;
        }
        // A separate thread serves while the test blocks.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let authority = Authority::new();
        let servers: Vec<_> = (0..3)
            .map(|_| runtime.block_on(Apiserver::start(&authority, Behaviour::Status(200))))
            .collect();
        let addresses: Vec<_> = servers
            .iter()
            .map(|server| server.address.to_string())
            .collect();
        let addresses = addresses.join(",");
        std::thread::scope(|scope| {
            let test = scope.spawn(|| test(&authority, &addresses));
            runtime.block_on(async {
                while !test.is_finished() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        });
    });
    thread.join().unwrap();
}

fn lvscare(authority: &Authority, servers: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvscare"));
    command.args(arguments).arg("--ca").arg(authority.file());
    command.args([
        "--vs",
        "10.103.97.2:6443",
        "--rs",
        servers,
        "--discover=off",
    ]);
    command.stderr(Stdio::null()).stdout(Stdio::null());
    command
}

/// Killed with the test.
struct Daemon(Child);

impl Daemon {
    fn start(authority: &Authority, servers: &str) -> Self {
        let daemon = Self(lvscare(authority, servers, &["care"]).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while get("/livez").is_none_or(|answer| !answer.contains(" 200 ")) {
            assert!(Instant::now() < deadline, "it does not live");
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }

    fn count(&self, folder: &str) -> usize {
        std::fs::read_dir(format!("/proc/{}/{folder}", self.0.id()))
            .unwrap()
            .count()
    }

    /// The open files between requests; a request that has just ended still counts for a moment.
    fn idle_open_files(&self) -> usize {
        let samples = (0..20).map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            self.count("fd")
        });
        samples.min().unwrap()
    }

    /// The exit status; `None` after a timeout.
    fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(STATUS).ok()?;
    let timeout = Some(Duration::from_secs(5));
    stream.set_read_timeout(timeout).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn daemon_has_one_thread_no_leaks_and_stops_on_sigterm() {
    in_a_node(|authority, servers| {
        let mut daemon = Daemon::start(authority, servers);
        let probed = || {
            let metrics = get("/metrics").unwrap();
            let counts = metrics
                .lines()
                .filter(|line| line.starts_with("lvscare_probe_seconds_count"));
            counts
                .filter(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap() >= 3)
                .count()
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while probed() < 3 {
            assert!(Instant::now() < deadline, "not all are probed");
            std::thread::sleep(Duration::from_millis(50));
        }
        let before = daemon.idle_open_files();
        std::thread::sleep(Duration::from_secs(3));
        let after = daemon.idle_open_files();
        assert!(after <= before, "{before} became {after}");
        assert_eq!(daemon.count("task"), 1);
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.ended(), Some(0));
    });
}

#[test]
fn stuck_daemon_is_ended_by_the_watchdog() {
    in_a_node(|authority, servers| {
        // As inherited from some parent processes.
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGALRM);
        blocked.thread_block().unwrap();
        let mut daemon = Daemon::start(authority, servers);
        // The watchdog cannot distinguish a stopped process from a stuck loop.
        daemon.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_secs(11));
        daemon.signal(Signal::SIGCONT);
        assert_eq!(daemon.ended(), Some(70));
    });
}

#[test]
fn exit_statuses_are_as_documented() {
    in_a_node(|authority, servers| {
        let code = |arguments: &[&str]| {
            let status = lvscare(authority, servers, arguments).status().unwrap();
            status.code().unwrap()
        };
        assert_eq!(code(&["status"]), 3, "nothing is set up");
        assert_eq!(code(&["care", "--no-such-flag"]), 2);
        assert_eq!(code(&["care", "--interval=x"]), 2);
        assert_eq!(code(&["care", "--ip=fd00::1"]), 1);
    });
}
