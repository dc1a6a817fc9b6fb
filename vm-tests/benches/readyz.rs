//! What the probes of lvscare cost a real apiserver: processor time of kube-apiserver and its etcd for each `GET /readyz`
//! on a held connection, and for each new connection with one.
//!
//! The servers are the package's, processes of this host without emulation. What they use with nobody asking is measured
//! in the same round and taken off. From this the interval follows at which a cluster of many nodes asks.
//!
//! `cargo bench -p vm-tests --bench readyz` ; `FIRSTLIGHT_ROUNDS` sets the number of rounds (3). A round takes a minute.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use vm_tests::one_apiserver::{ADDRESS, ENDPOINT, with_apiserver};
use vm_tests::run::Run;
use vm_tests::server::Server;
use vm_tests::usual::{median, rounds};

const AUTHORITY: &str = "/etc/kubernetes/pki/ca.crt";

/// How long each part of a round lasts.
const PART: Duration = Duration::from_secs(20);
/// As many nodes at lvscare's default interval: 400 requests a second.
const NODES: usize = 200;
const INTERVAL: Duration = Duration::from_millis(500);
const THREADS: usize = 4;
/// New connections a second.
const NEW: u32 = 50;

/// Of both processes together, for one question.
#[derive(Debug, Default)]
struct Costs {
    held: Vec<Duration>,
    new: Vec<Duration>,
    idle: Vec<Duration>,
}

fn main() -> Result<()> {
    // `cargo test --benches` runs this too, without `--bench`; a benchmark is no test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let run = Run::new("readyz-bench")?;
    with_apiserver(&run, |root, servers| {
        let authority = root.read(AUTHORITY)?.context("no authority")?;
        let tls = tls(&authority)?;
        // What an apiserver does only after its start.
        std::thread::sleep(PART);
        let mut costs = Costs::default();
        for round in 1..=rounds() {
            let (idle, _) = used(servers, || {
                std::thread::sleep(PART);
                Ok(1)
            })?;
            let mut connections = open_all(&tls)?;
            let (busy, asked) = used(servers, || held_connections(&mut connections))?;
            drop(connections);
            let held = each(busy, idle, asked)?;
            let (busy, asked) = used(servers, || new_connections(&tls))?;
            let new = each(busy, idle, asked)?;
            println!("round {round}: held {held:?}, new {new:?}");
            costs.held.push(held);
            costs.new.push(new);
            costs.idle.push(idle);
        }
        report(&costs);
        Ok(())
    })?;
    run.passed();
    Ok(())
}

fn report(costs: &Costs) {
    let micros = |times: &[Duration]| {
        let one = |time: Option<&Duration>| time.map_or(0, Duration::as_micros);
        format!(
            "{} us ({}-{})",
            median(times).as_micros(),
            one(times.iter().min()),
            one(times.iter().max())
        )
    };
    println!(
        "processor time of kube-apiserver and etcd, {} rounds; median (lowest-highest)",
        costs.held.len()
    );
    println!(
        "  GET /readyz on a held connection  {}",
        micros(&costs.held)
    );
    println!("  GET /readyz on a new connection   {}", micros(&costs.new));
    let share = |time: Duration| 100.0 * time.as_secs_f64() / PART.as_secs_f64();
    println!(
        "  nobody asks                       {:.1} % of a core",
        share(median(&costs.idle))
    );
    // A held connection lives a minute.
    let node = median(&costs.held).as_secs_f64() / INTERVAL.as_secs_f64()
        + median(&costs.new).as_secs_f64() / 60.0;
    println!(
        "  {NODES} nodes, each every {} ms       {:.1} % of a core",
        INTERVAL.as_millis(),
        100.0 * node * NODES as f64
    );
}

fn tls(authority: &[u8]) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(
        builder.with_root_certificates(roots).with_no_client_auth(),
    ))
}

/// What the servers used of processors while `load` ran, and how many questions it asked.
fn used(servers: [&Server; 2], load: impl FnOnce() -> Result<u32>) -> Result<(Duration, u32)> {
    let sum = || -> Result<Duration> { servers.iter().map(|server| server.processor_time()).sum() };
    let before = sum()?;
    let asked = load()?;
    Ok((sum()? - before, asked))
}

fn each(busy: Duration, idle: Duration, asked: u32) -> Result<Duration> {
    ensure!(asked > 0, "nothing was asked");
    Ok(busy.saturating_sub(idle) / asked)
}

/// The connections of `NODES` workers, which are not part of what their questions cost.
fn open_all(tls: &Arc<ClientConfig>) -> Result<Vec<Connection>> {
    (0..NODES).map(|_| open(tls)).collect()
}

/// As `NODES` workers do, evenly spread over the interval.
fn held_connections(connections: &mut [Connection]) -> Result<u32> {
    let worker = |connections: &mut [Connection]| -> Result<u32> {
        let spacing = INTERVAL / u32::try_from(connections.len())?;
        let (begun, mut asked) = (Instant::now(), 0);
        while begun.elapsed() < PART {
            for connection in &mut *connections {
                ask(connection)?;
                asked += 1;
                std::thread::sleep((spacing * asked).saturating_sub(begun.elapsed()));
            }
        }
        Ok(asked)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .chunks_mut(NODES / THREADS)
            .map(|part| scope.spawn(|| worker(part)))
            .collect();
        let mut asked = 0;
        for thread in threads {
            let Ok(count) = thread.join() else {
                bail!("a worker panicked")
            };
            asked += count?;
        }
        Ok(asked)
    })
}

fn new_connections(tls: &Arc<ClientConfig>) -> Result<u32> {
    let spacing = Duration::from_secs(1) / NEW;
    let (begun, mut asked) = (Instant::now(), 0);
    while begun.elapsed() < PART {
        ask(&mut open(tls)?)?;
        asked += 1;
        std::thread::sleep((spacing * asked).saturating_sub(begun.elapsed()));
    }
    Ok(asked)
}

type Connection = StreamOwned<ClientConnection, TcpStream>;

fn open(tls: &Arc<ClientConfig>) -> Result<Connection> {
    let stream = TcpStream::connect(ENDPOINT).context("connecting to the apiserver")?;
    stream.set_nodelay(true)?;
    let name = ServerName::from(std::net::IpAddr::V4(ADDRESS));
    Ok(StreamOwned::new(
        ClientConnection::new(tls.clone(), name)?,
        stream,
    ))
}

/// The request that lvscare makes, to the end of its answer.
fn ask(connection: &mut Connection) -> Result<()> {
    let request =
        format!("GET /readyz HTTP/1.1\r\nhost: {ENDPOINT}\r\nuser-agent: lvscare\r\n\r\n");
    connection.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while !answer.ends_with(b"\r\n\r\nok") {
        let count = connection.read(&mut part)?;
        answer.extend_from_slice(&part[..count]);
        ensure!(
            count > 0
                && answer.len() < part.len()
                && b"HTTP/1.1 200".starts_with(&answer[..answer.len().min(12)]),
            "the apiserver says {}",
            String::from_utf8_lossy(&answer)
        );
    }
    Ok(())
}
