//! What a keeper takes of a processor while nothing happens: lvscare, and HAProxy, whose checks are as ours.
//!
//! Three real kube-apiservers, each over its etcd, and each keeper in turn, as processes of this host without emulation;
//! keepalived, which does not start without IPVS, is measured in the emulated machines of the bench `lvscare`.
//!
//! `cargo bench -p vm-tests --bench idle`, as root; `FIRSTLIGHT_ROUNDS` sets the number of rounds (3). A round takes four
//! minutes. A bar of ours that does not hold is the exit status.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vm_tests::artifacts::Programs;
use vm_tests::host::Host;
use vm_tests::lvscare_guest::rivals;
use vm_tests::run::Run;
use vm_tests::server::Server;
use vm_tests::servers::{MASTERS, Site, THREE_MASTERS, bound, in_network};
use vm_tests::usual::rounds;

/// lvscare's own default.
const STATUS: &str = "127.0.0.1:10354";

/// Until a keeper has found its servers and its pace.
const SETTLE: Duration = Duration::from_secs(10);
/// A minute, in which lvscare renews each of its connections once.
const PART: Duration = Duration::from_secs(66);

/// What we ask of lvscare, in per cent of a core.
const BAR: f64 = 0.2;

const LVSCARE: &str = "lvscare, every 500 ms";
/// kubespray's template has the last; what lvscare finds out in a second it does in half a minute.
const HAPROXY: [(&str, &str); 2] = [
    ("haproxy, every 500 ms", "500ms"),
    ("haproxy, every 15 s", "15s"),
];

fn main() -> Result<()> {
    // `cargo test --benches` runs this too, without `--bench`; a benchmark is no test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let lvscare = Programs::build_static()?.join("lvscare");
    let rivals = rivals(&host)?;
    let run = Run::new("idle-bench")?;
    let site = Site::new(&run, THREE_MASTERS)?;
    in_network(&MASTERS, |network| {
        let mut servers = Vec::new();
        for (name, address) in MASTERS {
            let cluster = format!("{name}=https://{address}:2380");
            servers.push(site.etcd(network, name, &cluster, false)?);
            servers.push(site.apiserver(network, name)?);
        }
        let mut rows = vec![(LVSCARE, Vec::new())];
        rows.extend(HAPROXY.map(|(name, _)| (name, Vec::new())));
        for round in 1..=rounds() {
            let mut shares = vec![ours(&site, &lvscare)?];
            for (name, interval) in HAPROXY {
                shares.push(haproxy(&site, &rivals, name, interval)?);
            }
            for ((name, all), share) in rows.iter_mut().zip(shares) {
                println!("round {round}: {name}: {share:.3} % of a core");
                all.push(share);
            }
        }
        report(&mut rows)
    })?;
    run.passed();
    Ok(())
}

fn report(rows: &mut [(&str, Vec<f64>)]) -> Result<()> {
    println!(
        "processor time at rest, three masters, % of a core, {} rounds; median (lowest-highest)",
        rounds()
    );
    let mut ours = None;
    for (name, shares) in rows {
        shares.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (shares.first(), shares.last()) else {
            continue;
        };
        let median = shares[shares.len() / 2];
        println!("  {name:<24} {median:.3} ({least:.3}-{most:.3})");
        if *name == LVSCARE {
            ours = Some(median);
        }
    }
    if !Path::new("/proc/net/ip_vs").exists() {
        println!(
            "this kernel has no IPVS: lvscare tried to open its table twice a second, in place of reading it"
        );
    }
    let ours = ours.context("nothing was measured")?;
    ensure!(
        ours <= BAR,
        "the bar does not hold: lvscare took {ours:.3} % of a core, not {BAR} % at most"
    );
    Ok(())
}

fn ours(site: &Site, program: &Path) -> Result<f64> {
    let servers = MASTERS.map(|(_, address)| format!("{address}:6443"));
    let authority = site.root("m0")?.join("etc/kubernetes/pki/ca.crt");
    let mut command = bound();
    command.arg(program).args(["care", "--discover=off"]);
    command.args(["--vs=10.103.97.2:6443", "--rs", &servers.join(",")]);
    command.arg("--ca").arg(authority);
    // What a pod does not have, and what would make an error dear.
    command.env_remove("RUST_BACKTRACE");
    let mut keeper = site.start("lvscare", &mut command)?;
    at_rest(&mut keeper, || {
        let mut stream = TcpStream::connect(STATUS).context("connecting to its status")?;
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(
            text.matches(r#""class":"up""#).count() == MASTERS.len(),
            "not all are up: {text}"
        );
        Ok(())
    })
}

fn haproxy(site: &Site, rivals: &Path, name: &str, interval: &str) -> Result<f64> {
    let folder = site.root("m0")?;
    let (socket, path) = (folder.join("haproxy.sock"), folder.join("haproxy.cfg"));
    // kubespray's, but for the interval and for the authority, which it does not verify.
    let mut text = format!(
        "global\n maxconn 4000\n stats socket {}\n\
         defaults\n mode http\n timeout connect 30s\n timeout client 15m\n timeout server 15m\n timeout check 30s\n\
         frontend kube_api_frontend\n bind 127.0.0.1:6443\n mode tcp\n default_backend kube_api_backend\n\
         backend kube_api_backend\n mode tcp\n balance leastconn\n \
         default-server inter {interval} downinter {interval} rise 2 fall 2\n \
         option httpchk GET /readyz\n http-check expect status 200\n",
        socket.display()
    );
    let authority = folder.join("etc/kubernetes/pki/ca.crt");
    for (name, address) in MASTERS {
        let authority = authority.display();
        text += &format!(
            " server {name} {address}:6443 check check-ssl verify required ca-file {authority}\n"
        );
    }
    fs::write(&path, text)?;
    let mut command = bound();
    command
        .arg(rivals.join("lib64/ld-linux-x86-64.so.2"))
        .arg("--library-path")
        .arg(rivals.join("usr/lib/x86_64-linux-gnu"))
        .arg(rivals.join("usr/sbin/haproxy"))
        .arg("-db")
        .arg("-f")
        .arg(&path);
    let mut keeper = site.start(&name.replace([' ', ','], "-"), &mut command)?;
    at_rest(&mut keeper, || {
        let mut stream = UnixStream::connect(&socket).context("connecting to HAProxy's socket")?;
        stream.write_all(b"show stat\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(
            text.matches("L7OK").count() == MASTERS.len(),
            "not all are up: {text}"
        );
        Ok(())
    })
}

/// Per cent of a core that a keeper takes from the time all its servers are up; they must be so at the end, too.
fn at_rest(keeper: &mut Server, mut all_are_up: impl FnMut() -> Result<()>) -> Result<f64> {
    keeper.wait("find its servers up", &mut all_are_up)?;
    std::thread::sleep(SETTLE);
    let (begun, before) = (Instant::now(), keeper.run_time()?);
    std::thread::sleep(PART);
    let (took, used) = (begun.elapsed(), keeper.run_time()? - before);
    all_are_up()?;
    Ok(100.0 * used.as_secs_f64() / took.as_secs_f64())
}
