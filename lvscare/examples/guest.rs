//! What only a kernel with IPVS can show; run as the one program of a throw-away machine (vm-tests' `InitrdTest`).
//!
//! Needs: the modules `ip_vs ip_vs_rr ip_vs_wlc nf_conntrack inet_diag tcp_diag`, this program static, the static
//! `lvscare` as `/bin/lvscare`, and the argument `codec` or `care`. It flushes nothing but assumes that the whole
//! table is its own: never run it on a host. Each proven claim is a line `ok ...`; the first false one ends it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use lvscare::connections;
use lvscare::ipvs::{Destination, Error, Forwarding, Identity, Ipvs, Service};
use lvscare::kernel::Table;
use lvscare::status::{Grade, Status};
use lvscare::table::Actual;
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::route::{RouteScope, RouteType};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

const SERVICE: &str = "10.103.97.2:6443";
const PROGRAM: &str = "/bin/lvscare";

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(lo_up())?;
    match std::env::args().nth(1).as_deref() {
        Some("codec") => codec(),
        Some("care") => care(&runtime),
        other => bail!("which test? Give `codec` or `care`, not {other:?}"),
    }
}

fn ok(claim: &str) {
    println!("ok {claim}");
}

fn address(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn master(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 6443))
}

/// IPVS answers NEW_DEST with EINVAL while the local routing table is empty.
async fn lo_up() -> anyhow::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let mut link = LinkMessageBuilder::<LinkUnspec>::default()
        .index(1)
        .up()
        .build();
    link.header.change_mask = LinkFlags::Up;
    handle.link().set(link).execute().await?;
    for n in 1..=3 {
        let route = RouteMessageBuilder::<std::net::IpAddr>::new()
            .table_id(255)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .output_interface(1)
            .destination_prefix(master(n).ip(), 32)?
            .build();
        handle.route().add(route).execute().await?;
    }
    Ok(())
}

fn codec() -> anyhow::Result<()> {
    let mut ipvs = Ipvs::open().context("opening IPVS")?;
    let info = ipvs.info()?;
    ensure!(
        info.version >= 0x01_02_00 && info.connection_table_size > 0,
        "{info:?}"
    );
    ok("info");

    for (service, server) in [
        (SERVICE, "10.9.0.1:6443"),
        ("[fd97::2]:6443", "[fd00::1]:6443"),
    ] {
        let service = Service::tcp(address(service), "rr");
        ensure!(
            ipvs.service(service.identity)?.is_none(),
            "there before it was made"
        );
        ipvs.new_service(&service)?;
        ensure!(
            ipvs.service(service.identity)? == Some(service.clone()),
            "{:?}",
            ipvs.service(service.identity)
        );
        ensure!(
            ipvs.new_service(&service)
                .is_err_and(|error| error.is_race()),
            "made twice"
        );
        let Identity::Address { address: vip, .. } = service.identity else {
            bail!("no address")
        };
        let mut server = Destination::masquerade(address(server), 1);
        ipvs.new_destination(service.identity, &server)?;
        ensure!(
            ipvs.new_destination(service.identity, &server)
                .is_err_and(|error| error.is_race()),
            "added twice"
        );
        ensure!(
            ipvs.destinations(vip)? == [server.clone()],
            "{:?}",
            ipvs.destinations(vip)
        );
        server.weight = 0;
        ipvs.set_destination(service.identity, &server)?;
        ensure!(ipvs.destinations(vip)? == [server.clone()], "not drained");
        ipvs.delete_destination(service.identity, &server)?;
        for refused in [
            ipvs.delete_destination(service.identity, &server),
            ipvs.set_destination(service.identity, &server),
        ] {
            ensure!(refused.as_ref().is_err_and(Error::is_race), "{refused:?}");
        }
        let changed = Service::tcp(vip, "wlc");
        ipvs.set_service(&changed)?;
        ensure!(
            ipvs.service(service.identity)? == Some(changed),
            "not changed"
        );
        ipvs.delete_service(service.identity)?;
        ensure!(
            ipvs.delete_service(service.identity)
                .is_err_and(|error| error.is_race()),
            "deleted twice"
        );
        // The kernel ends the listing of a service that is not there as it ends an empty one.
        ensure!(
            ipvs.destinations(vip)?.is_empty(),
            "servers without a service"
        );
        ok(&format!("a service and its servers, {vip}"));
    }

    let marked = Service {
        identity: Identity::FwMark { family: 2, mark: 7 },
        ..Service::tcp(address(SERVICE), "rr")
    };
    ipvs.new_service(&marked)?;
    let foreign = Service::tcp(address("10.96.0.1:443"), "wlc");
    ipvs.new_service(&foreign)?;
    let mut routed = Destination::masquerade(address("10.9.0.2:443"), 3);
    routed.forwarding = Forwarding(3);
    ipvs.new_destination(foreign.identity, &routed)?;
    let local = Destination::masquerade(SocketAddr::from(([10, 0, 0, 1], 443)), 1);
    ipvs.new_destination(foreign.identity, &local)?;
    let mut found = ipvs.services()?;
    found.sort_by_key(|service| format!("{:?}", service.identity));
    ensure!(found == [foreign.clone(), marked.clone()], "{found:?}");
    let found = ipvs.destinations(address("10.96.0.1:443"))?;
    ensure!(found.len() == 2 && found.contains(&routed), "{found:?}");
    ok("other tenants' services: marks, direct routing, a server on this node");

    let begun = Instant::now();
    for n in 0..10_000u16 {
        let [high, low] = n.to_be_bytes();
        ipvs.new_service(&Service::tcp(
            SocketAddr::from(([10, 97, high, low], 443)),
            "rr",
        ))?;
    }
    let (made, begun) = (begun.elapsed(), Instant::now());
    ensure!(
        ipvs.services()?.len() == 10_002,
        "{}",
        ipvs.services()?.len()
    );
    let (listed, begun) = (begun.elapsed(), Instant::now());
    let ours = Service::tcp(address(SERVICE), "rr");
    ipvs.new_service(&ours)?;
    ipvs.new_destination(
        ours.identity,
        &Destination::masquerade(address("10.9.0.1:6443"), 1),
    )?;
    let actual = Table::default().read(&ours)?;
    ensure!(
        actual.service == Some(ours) && actual.destinations.len() == 1,
        "{actual:?}"
    );
    println!(
        "   10,000 services: made in {made:?}, listed in {listed:?}; ours made and read in {:?}",
        begun.elapsed()
    );
    ok("a table with 10,000 foreign services");
    Ok(())
}

/// A plain apiserver. Connections that asked something end with it; the others stay open for ever, as those of a
/// vanished host do.
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

    /// The port refuses and the connections that asked end, all within a moment.
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

fn care(runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
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
    ok("a request through the virtual address is served");

    let mut daemon = lvscare(&["care"]).spawn()?;
    wait("all up", || {
        Ok(status(runtime).is_ok_and(|status| status.grade() == Grade::AllUp))
    })?;
    ensure!(
        status(runtime)?.counters.changes == 0,
        "the daemon changed what run-once had made"
    );
    ok("the daemon takes the table over without a change");

    let mut idle = TcpStream::connect(SERVICE)?;
    let here = idle.local_addr()?;
    let through = connections::list()?
        .into_iter()
        .find(|flow| flow.client == here)
        .context("the flow is not listed")?;
    let victim = (1..=3)
        .find(|n| master(*n) == through.destination)
        .context("to whom?")?;
    // A connection still waiting to be accepted would end with the listener.
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
        "   killed master {victim}: out of the table after {left:?}, its idle flow ended after {:?}",
        killed.elapsed()
    );
    ensure!(
        error == Some(ErrorKind::ConnectionAborted),
        "the idle flow said {error:?}"
    );
    ok("a killed server leaves the table, and an idle flow to it ends");
    for _ in 0..9 {
        get()?;
    }
    ok("all requests are served by the others");

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
    ok("a service removed by another is put back with all its servers");

    daemon.kill()?;
    daemon.wait()?;
    let mut idle = TcpStream::connect(SERVICE)?;
    let mut daemon = lvscare(&["care"]).spawn()?;
    wait("all up", || {
        Ok(status(runtime).is_ok_and(|status| status.grade() == Grade::AllUp))
    })?;
    ensure!(
        status(runtime)?.counters.changes == 0,
        "a restart changed the table"
    );
    idle.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    ensure!(idle.read(&mut [0; 64])? > 0, "the flow did not survive");
    ok("a daemon killed and started again changes nothing and ends no flow");

    for (n, master) in (1..).zip(&mut masters) {
        master.kill(n);
    }
    wait("panic", || Ok(status(runtime)?.panic))?;
    ensure!(
        weights(&service)? == [(1, 1), (2, 1), (3, 1)],
        "{:?}",
        weights(&service)
    );
    ok("with all servers dead, all stay in the table");
    masters[1] = Master::start(2, &silent)?;
    wait("one left", || Ok(weights(&service)? == [(2, 1)]))?;
    ok("the first to return is used alone");

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
        "the service is still there"
    );
    ensure!(
        TcpStream::connect_timeout(&address(SERVICE), Duration::from_secs(1)).is_err(),
        "the route is still there"
    );
    ok("clean removes the service and the route");
    Ok(())
}

/// The masters in the table, sorted, and their weights.
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
    runtime.block_on(lvscare::server::fetch(address("127.0.0.1:10354")))
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
        ensure!(Instant::now() < deadline, "waited in vain: {what}");
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
