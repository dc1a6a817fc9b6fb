//! Checks that the daemon keeps its IPVS table, with plain HTTP servers on addresses of this
//! machine.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lvscare::apply::Table;
use lvscare::ipvs::connections;
use lvscare::ipvs::{Ipvs, Service};
use lvscare::status::{Grade, Status};
use lvscare::table::Actual;

use crate::{PROGRAM, SERVICE, address, master, ok};

/// A plain HTTP server. Killing it ends the connections that have sent a request; the others stay
/// open, as those of a vanished host do.
struct Master {
    dead: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Master {
    fn start(n: u8, silent: &Arc<Mutex<Vec<TcpStream>>>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(master(n))?;
        let (dead, asked) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Mutex::new(Vec::new())),
        );
        let (is_dead, keep, silent) = (Arc::clone(&dead), Arc::clone(&asked), Arc::clone(silent));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_dead.load(Ordering::SeqCst) {
                    return;
                }
                let (keep, silent) = (Arc::clone(&keep), Arc::clone(&silent));
                std::thread::spawn(move || serve(stream, &keep, &silent));
            }
        });
        Ok(Self {
            dead,
            asked,
            thread: Some(thread),
        })
    }

    /// Closes the port and ends the connections that have sent a request.
    fn kill(&mut self, n: u8) {
        self.dead.store(true, Ordering::SeqCst);
        // Wakes the listener, which then closes.
        drop(TcpStream::connect(master(n)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for stream in self
            .asked
            .lock()
            .into_iter()
            .flat_map(|mut asked| std::mem::take(&mut *asked))
        {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn serve(mut stream: TcpStream, asked: &Mutex<Vec<TcpStream>>, silent: &Mutex<Vec<TcpStream>>) {
    let Ok(copy) = stream.try_clone() else { return };
    if let Ok(mut silent) = silent.lock() {
        silent.extend(stream.try_clone());
    }
    let mut first = Some(copy);
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        if let (Some(copy), Ok(mut asked)) = (first.take(), asked.lock()) {
            asked.push(copy);
        }
        if buffer[..read].ends_with(b"\r\n\r\n")
            && stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .is_err()
        {
            return;
        }
    }
}

fn lvscare(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).args([
        "--vs",
        SERVICE,
        "--rs",
        "10.0.0.1:6443,10.0.0.2:6443,10.0.0.3:6443",
    ]);
    command.args(["--health-schem", "http"]);
    command
}

pub(crate) fn care(runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
    let silent = Arc::new(Mutex::new(Vec::new()));
    let mut masters = Vec::new();
    for n in 1..=3 {
        masters.push(Master::start(n, &silent)?);
    }
    let service = Service::tcp(address(SERVICE), "rr");
    ensure!(
        lvscare(&["run-once"]).status()?.success(),
        "run-once failed"
    );
    ensure!(
        weights(&service)? == [(1, 1), (2, 1), (3, 1)],
        "{:?}",
        weights(&service)
    );
    for (name, value) in [("conntrack", "1"), ("expire_nodest_conn", "1")] {
        ensure!(
            fs::read_to_string(format!("/proc/sys/net/ipv4/vs/{name}"))?.trim() == value,
            "{name}"
        );
    }
    ok("run-once: settings, route, service, all servers");
    get()?;
    ok("the virtual service serves a request");

    let mut daemon = lvscare(&["care"]).spawn()?;
    wait("all up", || {
        Ok(status(runtime).is_ok_and(|status| status.grade() == Grade::AllUp))
    })?;
    ensure!(
        status(runtime)?.counters.changes.is_empty(),
        "the daemon changed the table of run-once"
    );
    ok("the daemon takes over the table without a change");

    let mut idle = TcpStream::connect(SERVICE)?;
    let here = idle.local_addr()?;
    let through = connections::list(|_| true)?
        .into_iter()
        .find(|flow| flow.client == here)
        .context("the connection is not listed")?;
    let victim = (1..=3)
        .find(|n| master(*n) == through.destination)
        .context("the connection has an unknown server")?;
    // A connection that is not accepted yet would end with the listener.
    let accepted = |held: &TcpStream| held.peer_addr().is_ok_and(|peer| peer == here);
    wait("accepted", || {
        Ok(silent
            .lock()
            .is_ok_and(|silent| silent.iter().any(accepted)))
    })?;
    let killed = Instant::now();
    masters[usize::from(victim) - 1].kill(victim);
    wait("gone", || {
        Ok(weights(&service)?.iter().all(|(n, _)| *n != victim))
    })?;
    let left = killed.elapsed();
    idle.set_read_timeout(Some(Duration::from_secs(5)))?;
    let error = idle.read(&mut [0]).err().map(|error| error.kind());
    println!(
        "   killed server {victim}: removed after {left:?}, its idle connection ended after {:?}",
        killed.elapsed()
    );
    ensure!(
        error == Some(ErrorKind::ConnectionAborted),
        "the idle connection ended with {error:?}"
    );
    ok("a killed server is removed, and an idle connection to it ends");
    for _ in 0..9 {
        get()?;
    }
    ok("the others serve all requests");

    masters[usize::from(victim) - 1] = Master::start(victim, &silent)?;
    let back = Instant::now();
    wait("back", || Ok(weights(&service)?.len() == 3))?;
    println!("   back after {:?}", back.elapsed());
    ok("a returning server is used again");

    Ipvs::open()?.delete_service(service.identity)?;
    let wiped = Instant::now();
    wait("repaired", || Ok(weights(&service)?.len() == 3))?;
    println!("   repaired after {:?}", wiped.elapsed());
    get()?;
    ok("a virtual service that another program removes is restored with all its servers");

    daemon.kill()?;
    daemon.wait()?;
    let mut idle = TcpStream::connect(SERVICE)?;
    let mut daemon = lvscare(&["care"]).spawn()?;
    wait("all up", || {
        Ok(status(runtime).is_ok_and(|status| status.grade() == Grade::AllUp))
    })?;
    ensure!(
        status(runtime)?.counters.changes.is_empty(),
        "a restart changed the table"
    );
    idle.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    ensure!(
        idle.read(&mut [0; 64])? > 0,
        "the connection did not survive"
    );
    ok("a restarted daemon changes nothing and ends no connection");

    for (n, master) in (1..).zip(&mut masters) {
        master.kill(n);
    }
    wait("panic", || Ok(status(runtime)?.panic))?;
    ensure!(
        weights(&service)? == [(1, 1), (2, 1), (3, 1)],
        "{:?}",
        weights(&service)
    );
    ok("if all servers are dead, all stay in the table");
    masters[1] = Master::start(2, &silent)?;
    wait("one left", || Ok(weights(&service)? == [(2, 1)]))?;
    ok("only the first server to return is used");

    println!("{}", memory(&daemon)?);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(daemon.id().cast_signed()),
        nix::sys::signal::SIGTERM,
    )?;
    ensure!(daemon.wait()?.success(), "stopping failed");
    ensure!(weights(&service)? == [(2, 1)], "stopping changed the table");
    ok("stopping leaves the table");
    ensure!(lvscare(&["--clean"]).status()?.success(), "clean failed");
    ensure!(
        Table::default().read(&service)? == Actual::default(),
        "the virtual service still exists"
    );
    ensure!(
        TcpStream::connect_timeout(&address(SERVICE), Duration::from_secs(1)).is_err(),
        "the route still exists"
    );
    ok("--clean removes the virtual service and the route");
    Ok(())
}

/// The servers in the table, sorted, with their weights.
fn weights(service: &Service) -> anyhow::Result<Vec<(u8, u32)>> {
    let found = Table::default().read(service)?.destinations;
    let mut weights = Vec::new();
    for n in 1..=3 {
        weights.extend(
            found
                .iter()
                .filter(|found| found.address == master(n))
                .map(|found| (n, found.weight)),
        );
    }
    Ok(weights)
}

fn status(runtime: &tokio::runtime::Runtime) -> anyhow::Result<Status> {
    runtime.block_on(lvscare::status::server::fetch(address("127.0.0.1:10354")))
}

fn get() -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(SERVICE).context("connecting to the virtual address")?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    ensure!(
        &answer == b"HTTP/1.1 200",
        "{}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

fn wait(what: &str, mut is: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is()? {
        ensure!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn memory(daemon: &Child) -> anyhow::Result<String> {
    let text = fs::read_to_string(format!("/proc/{}/status", daemon.id()))?;
    let fields = ["VmRSS", "RssAnon", "Threads"]
        .map(|field| text.lines().find(|line| line.starts_with(field)));
    let fields: Vec<_> = fields
        .into_iter()
        .flatten()
        .map(|line| line.replace('\t', " "))
        .collect();
    let threads = text
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"))
        .map(str::trim);
    ensure!(threads == Some("1"), "more than one thread: {threads:?}");
    Ok(format!("   {}", fields.join(", ")))
}
