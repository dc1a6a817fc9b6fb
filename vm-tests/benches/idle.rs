//! Processor time of an idle load balancer: lvscare, and HAProxy with the same health check.
//!
//! The servers are three real kube-apiservers, each with its etcd. All are processes of the host
//! without emulation. keepalived needs IPVS in the kernel, so the benchmark `lvscare` measures it.
//!
//! `cargo bench -p vm-tests --bench idle`, as root. `FIRSTLIGHT_ROUNDS` is the number of rounds
//! (3). A round takes 4 minutes. The exit status is non-zero if lvscare exceeds its limit.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vm_tests::control_plane::{ControlPlane, HOSTS, THREE_HOSTS, bound, in_network};
use vm_tests::host::Host;
use vm_tests::host::artifacts::Programs;
use vm_tests::host::process::Server;
use vm_tests::host::run_dir::RunDir;
use vm_tests::initrd::lvscare_guest::other_balancers;
use vm_tests::stats::rounds;

/// The default status address of lvscare.
const STATUS: &str = "127.0.0.1:10354";

/// How long a balancer takes until its health checks are steady.
const SETTLE: Duration = Duration::from_secs(10);
/// A minute and a bit, in which lvscare renews each of its connections once.
const PART: Duration = Duration::from_secs(66);

/// The limit of lvscare, in per cent of a core.
const LIMIT: f64 = 0.2;

const LVSCARE: &str = "lvscare, every 500 ms";
/// kubespray's template has 15 s, with which HAProxy detects in half a minute what lvscare detects
/// in a second.
const HAPROXY: [(&str, &str); 2] = [
    ("haproxy, every 500 ms", "500ms"),
    ("haproxy, every 15 s", "15s"),
];

fn main() -> Result<()> {
    // `cargo test --benches` runs this program too, without `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let program = Programs::build_static()?.join("lvscare");
    let tree = other_balancers(&host)?;
    let run_dir = RunDir::new("idle-bench")?;
    let control_plane = ControlPlane::new(&run_dir, THREE_HOSTS)?;
    in_network(&HOSTS, |network| {
        let mut servers = Vec::new();
        for (name, address) in HOSTS {
            let cluster = format!("{name}=https://{address}:2380");
            servers.push(control_plane.etcd(network, name, &cluster, false)?);
            servers.push(control_plane.apiserver(network, name)?);
        }
        let mut rows = vec![(LVSCARE, Vec::new())];
        rows.extend(HAPROXY.map(|(name, _)| (name, Vec::new())));
        for round in 1..=rounds() {
            let mut shares = vec![lvscare(&control_plane, &program)?];
            for (name, interval) in HAPROXY {
                shares.push(haproxy(&control_plane, &tree, name, interval)?);
            }
            for ((name, all), share) in rows.iter_mut().zip(shares) {
                println!("round {round}: {name}: {share:.3} % of a core");
                all.push(share);
            }
        }
        report(&mut rows)
    })?;
    run_dir.passed();
    Ok(())
}

fn report(rows: &mut [(&str, Vec<f64>)]) -> Result<()> {
    println!(
        "processor time when idle, three apiservers, % of a core, {} rounds; median (lowest-highest)",
        rounds()
    );
    let mut measured = None;
    for (name, shares) in rows {
        shares.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (shares.first(), shares.last()) else {
            continue;
        };
        let median = shares[shares.len() / 2];
        println!("  {name:<24} {median:.3} ({least:.3}-{most:.3})");
        if *name == LVSCARE {
            measured = Some(median);
        }
    }
    if !Path::new("/proc/net/ip_vs").exists() {
        println!(
            "this kernel has no IPVS: lvscare has tried to open the table twice a second in place of reading it"
        );
    }
    let measured = measured.context("nothing was measured")?;
    ensure!(
        measured <= LIMIT,
        "lvscare uses {measured:.3} % of a core, its limit is {LIMIT} %"
    );
    Ok(())
}

fn lvscare(control_plane: &ControlPlane, program: &Path) -> Result<f64> {
    let servers = HOSTS.map(|(_, address)| format!("{address}:6443"));
    let ca = control_plane.root("m0")?.join("etc/kubernetes/pki/ca.crt");
    let mut command = bound();
    command.arg(program).args(["care", "--discover=off"]);
    command.args(["--vs=10.103.97.2:6443", "--rs", &servers.join(",")]);
    command.arg("--ca").arg(ca);
    // A pod has no RUST_BACKTRACE, and backtraces would make errors expensive.
    command.env_remove("RUST_BACKTRACE");
    let mut balancer = control_plane.start("lvscare", &mut command)?;
    when_idle(&mut balancer, || {
        let mut stream =
            TcpStream::connect(STATUS).context("connecting to the status of lvscare")?;
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(
            text.matches(r#""class":"up""#).count() == HOSTS.len(),
            "a server is not up: {text}"
        );
        Ok(())
    })
}

fn haproxy(control_plane: &ControlPlane, tree: &Path, name: &str, interval: &str) -> Result<f64> {
    let folder = control_plane.root("m0")?;
    let (socket, path) = (folder.join("haproxy.sock"), folder.join("haproxy.cfg"));
    // kubespray's configuration with another interval, and with verification of the certificate.
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
    for (name, address) in HOSTS {
        let authority = authority.display();
        text += &format!(
            " server {name} {address}:6443 check check-ssl verify required ca-file {authority}\n"
        );
    }
    fs::write(&path, text)?;
    let mut command = bound();
    command
        .arg(tree.join("lib64/ld-linux-x86-64.so.2"))
        .arg("--library-path")
        .arg(tree.join("usr/lib/x86_64-linux-gnu"))
        .arg(tree.join("usr/sbin/haproxy"))
        .arg("-db")
        .arg("-f")
        .arg(&path);
    let mut balancer = control_plane.start(&name.replace([' ', ','], "-"), &mut command)?;
    when_idle(&mut balancer, || {
        let mut stream = UnixStream::connect(&socket).context("connecting to HAProxy's socket")?;
        stream.write_all(b"show stat\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(
            text.matches("L7OK").count() == HOSTS.len(),
            "a server is not up: {text}"
        );
        Ok(())
    })
}

/// Per cent of a core that a balancer uses while all servers are up, which is checked before and
/// after.
fn when_idle(balancer: &mut Server, mut all_are_up: impl FnMut() -> Result<()>) -> Result<f64> {
    balancer.wait("find its servers up", &mut all_are_up)?;
    std::thread::sleep(SETTLE);
    let (start, before) = (Instant::now(), balancer.run_time()?);
    std::thread::sleep(PART);
    let (took, used) = (start.elapsed(), balancer.run_time()? - before);
    all_are_up()?;
    Ok(100.0 * used.as_secs_f64() / took.as_secs_f64())
}
