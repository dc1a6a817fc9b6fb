//! Cost of lvscare's health requests: processor time of kube-apiserver and etcd for each `GET
//! /readyz` on a persistent connection, and for each new connection with one request.
//!
//! The servers are those of the package, as processes of the host without emulation. Their idle
//! time is measured in the same round and subtracted. The result bounds the request interval of a
//! large cluster.
//!
//! `cargo bench -p vm-tests --bench readyz`. `FIRSTLIGHT_ROUNDS` is the number of rounds (3). A
//! round takes a minute.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use vm_tests::control_plane::{ADDRESS, ENDPOINT, with_apiserver};
use vm_tests::host::process::Server;
use vm_tests::host::run_dir::RunDir;
use vm_tests::stats::{median, rounds};

const CA: &str = "/etc/kubernetes/pki/ca.crt";

/// The length of each part of a round.
const PART: Duration = Duration::from_secs(20);
/// The number of nodes. With lvscare's default interval that is 400 requests per second.
const NODES: usize = 200;
const INTERVAL: Duration = Duration::from_millis(500);
const THREADS: usize = 4;
/// New connections per second.
const NEW: u32 = 50;

/// Processor time of both servers together, per request.
#[derive(Debug, Default)]
struct Costs {
    persistent: Vec<Duration>,
    new: Vec<Duration>,
    idle: Vec<Duration>,
}

fn main() -> Result<()> {
    // `cargo test --benches` runs this program too, without `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let run_dir = RunDir::new("readyz-bench")?;
    with_apiserver(&run_dir, |root, servers| {
        let ca = root.read(CA)?.context("the host has no CA certificate")?;
        let tls = tls(&ca)?;
        // Lets the apiserver finish the work that follows its start.
        std::thread::sleep(PART);
        let mut costs = Costs::default();
        for round in 1..=rounds() {
            let (idle, _) = used(servers, || {
                std::thread::sleep(PART);
                Ok(1)
            })?;
            let mut connections = open_all(&tls)?;
            let (busy, requests) = used(servers, || persistent_connections(&mut connections))?;
            drop(connections);
            let persistent = per_request(busy, idle, requests)?;
            let (busy, requests) = used(servers, || new_connections(&tls))?;
            let new = per_request(busy, idle, requests)?;
            println!("round {round}: persistent {persistent:?}, new {new:?}");
            costs.persistent.push(persistent);
            costs.new.push(new);
            costs.idle.push(idle);
        }
        report(&costs);
        Ok(())
    })?;
    run_dir.passed();
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
        costs.persistent.len()
    );
    println!(
        "  GET /readyz, persistent connection  {}",
        micros(&costs.persistent)
    );
    println!(
        "  GET /readyz, new connection         {}",
        micros(&costs.new)
    );
    let share = |time: Duration| 100.0 * time.as_secs_f64() / PART.as_secs_f64();
    println!(
        "  no requests                         {:.1} % of a core",
        share(median(&costs.idle))
    );
    // lvscare renews a persistent connection once a minute.
    let node = median(&costs.persistent).as_secs_f64() / INTERVAL.as_secs_f64()
        + median(&costs.new).as_secs_f64() / 60.0;
    println!(
        "  {NODES} nodes, each every {} ms         {:.1} % of a core",
        INTERVAL.as_millis(),
        100.0 * node * NODES as f64
    );
}

fn tls(ca: &[u8]) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(
        builder.with_root_certificates(roots).with_no_client_auth(),
    ))
}

/// The processor time of the servers while `load` runs, and its number of requests.
fn used(servers: [&Server; 2], load: impl FnOnce() -> Result<u32>) -> Result<(Duration, u32)> {
    let sum = || -> Result<Duration> { servers.iter().map(|server| server.processor_time()).sum() };
    let before = sum()?;
    let requests = load()?;
    Ok((sum()? - before, requests))
}

fn per_request(busy: Duration, idle: Duration, requests: u32) -> Result<Duration> {
    ensure!(requests > 0, "no request was sent");
    Ok(busy.saturating_sub(idle) / requests)
}

/// Opens the persistent connections of `NODES` nodes before the measurement.
fn open_all(tls: &Arc<ClientConfig>) -> Result<Vec<Connection>> {
    (0..NODES).map(|_| open(tls)).collect()
}

/// Sends the requests of `NODES` nodes, evenly spread over the interval.
fn persistent_connections(connections: &mut [Connection]) -> Result<u32> {
    let worker = |connections: &mut [Connection]| -> Result<u32> {
        let spacing = INTERVAL / u32::try_from(connections.len())?;
        let (start, mut requests) = (Instant::now(), 0);
        while start.elapsed() < PART {
            for connection in &mut *connections {
                send_request(connection)?;
                requests += 1;
                std::thread::sleep((spacing * requests).saturating_sub(start.elapsed()));
            }
        }
        Ok(requests)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .chunks_mut(NODES / THREADS)
            .map(|part| scope.spawn(|| worker(part)))
            .collect();
        let mut requests = 0;
        for thread in threads {
            let Ok(count) = thread.join() else {
                bail!("a worker panicked")
            };
            requests += count?;
        }
        Ok(requests)
    })
}

fn new_connections(tls: &Arc<ClientConfig>) -> Result<u32> {
    let spacing = Duration::from_secs(1) / NEW;
    let (start, mut requests) = (Instant::now(), 0);
    while start.elapsed() < PART {
        send_request(&mut open(tls)?)?;
        requests += 1;
        std::thread::sleep((spacing * requests).saturating_sub(start.elapsed()));
    }
    Ok(requests)
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

/// Sends the request of lvscare and reads the complete answer.
fn send_request(connection: &mut Connection) -> Result<()> {
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
            "the apiserver answers {}",
            String::from_utf8_lossy(&answer)
        );
    }
    Ok(())
}
