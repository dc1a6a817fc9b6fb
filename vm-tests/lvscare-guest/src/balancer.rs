//! The load balancers of a worker: lvscare and others, each with common settings.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use lvscare::ipvs::Ipvs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::PROGRAM;
use crate::net::Net;
use crate::netns::Netns;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Lvscare,
    /// One check per second, a timeout of one second, no retry.
    KeepalivedTuned,
    /// The settings of blogs and wikis.
    KeepalivedCopied,
    /// kubespray's template.
    Haproxy,
    /// kubespray's template.
    Nginx,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lvscare => "lvscare",
            Self::KeepalivedTuned => "keepalived tuned",
            Self::KeepalivedCopied => "keepalived copied",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// Whether it programs IPVS.
    pub(crate) fn uses_ipvs(self) -> bool {
        !matches!(self, Self::Haproxy | Self::Nginx)
    }

    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Lvscare => PROGRAM,
            Self::KeepalivedTuned | Self::KeepalivedCopied => "/usr/sbin/keepalived",
            Self::Haproxy => "/usr/sbin/haproxy",
            Self::Nginx => "/usr/sbin/nginx",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Balancer {
    pub(crate) kind: Kind,
    pub(crate) netns: Netns,
    net: Net,
    masters: Vec<SocketAddr>,
    folder: PathBuf,
    child: Option<Child>,
    /// More flags of lvscare.
    pub(crate) flags: Vec<String>,
}

impl Balancer {
    /// Prepares a balancer. All that use IPVS get the same kernel settings.
    pub(crate) fn new(
        kind: Kind,
        netns: Netns,
        net: Net,
        address: IpAddr,
        masters: Vec<SocketAddr>,
        testbed: &Path,
    ) -> anyhow::Result<Self> {
        let folder = testbed.join(&netns.name);
        fs::create_dir_all(&folder)?;
        if kind.uses_ipvs() && kind != Kind::Lvscare {
            // The route and settings that lvscare makes itself; without them a comparison is
            // unfair.
            netns.run(Ipvs::open)?;
            for name in [
                "conntrack",
                "expire_nodest_conn",
                "expire_quiescent_template",
            ] {
                let path = format!("/proc/sys/net/ipv4/vs/{name}");
                netns.run(|| fs::write(path, "1"))?;
            }
            let vip = net.service().ip();
            netns.ip(&format!(
                "route add local {vip} dev lo table local src {address}\n"
            ))?;
        }
        Ok(Self {
            kind,
            netns,
            net,
            masters,
            folder,
            child: None,
            flags: vec!["--discover=off".to_owned()],
        })
    }

    /// The address to which clients connect.
    pub(crate) fn target(&self) -> SocketAddr {
        if self.kind.uses_ipvs() {
            self.net.service()
        } else {
            self.net.loopback()
        }
    }

    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let mut command = match self.kind {
            Kind::Lvscare => self.lvscare("care"),
            Kind::KeepalivedTuned => self.keepalived(
                "delay_loop 1",
                "connect_timeout 1\nretry 0\ndelay_before_retry 1",
            )?,
            Kind::KeepalivedCopied => self.keepalived(
                "delay_loop 6",
                "connect_timeout 3\nretry 3\ndelay_before_retry 3",
            )?,
            Kind::Haproxy => {
                let path = self.write("haproxy.cfg", &self.haproxy())?;
                let mut command = Command::new(self.kind.program());
                command.arg("-db").arg("-f").arg(path);
                command
            }
            Kind::Nginx => {
                let path = self.write("nginx.conf", &self.nginx())?;
                let mut command = Command::new(self.kind.program());
                command.arg("-e").arg("stderr").arg("-c").arg(path);
                command
            }
        };
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(self.netns.start(&mut command)?);
        Ok(())
    }

    /// A command of lvscare for this worker, with CAP_NET_ADMIN only.
    pub(crate) fn lvscare(&self, job: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all,+net_admin", PROGRAM, job]);
        let masters: Vec<_> = self.masters.iter().map(SocketAddr::to_string).collect();
        command.args(["--vs", &self.net.service().to_string()]);
        command.args(["--rs", &masters.join(",")]);
        let authority = self.folder.with_file_name("ca.crt");
        command.arg("--ca").arg(authority).args(&self.flags);
        command
    }

    /// Runs a command of lvscare to its end, and returns the exit status.
    pub(crate) fn run(&self, job: &str, more: &[&str]) -> anyhow::Result<i32> {
        let mut command = self.lvscare(job);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())?;
        command.args(more).stdout(Stdio::null()).stderr(log);
        let status = self.netns.start(&mut command)?.wait()?;
        status.code().context("the process was killed")
    }

    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the process does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Stops the process with SIGTERM, as kubelet and systemd do.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the process does not run")?;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        let status = child.wait()?;
        ensure!(status.success(), "the process ended with {status}");
        Ok(())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The process and its descendants.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut family: Vec<u32> = self.child.iter().map(Child::id).collect();
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().parse::<u32>().ok();
            let stat = id.and_then(|id| Some((id, stat(id)?)));
            all.extend(stat.map(|(id, stat)| (id, stat[1])));
        }
        // Twice, for grandchildren.
        for _ in 0..2 {
            for (id, parent) in &all {
                if family.contains(&u32::try_from(*parent).unwrap_or(0)) && !family.contains(id) {
                    family.push(*id);
                }
            }
        }
        family
    }

    /// KiB of all processes: resident set size and proportional set size.
    pub(crate) fn memory(&self) -> [u64; 2] {
        let sum = |file: &str, field: &str| {
            let of = |id: &u32| {
                let text = fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
                let line = text.lines().find_map(|line| line.strip_prefix(field));
                line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
            };
            self.processes().iter().filter_map(of).sum()
        };
        [sum("status", "VmRSS:"), sum("smaps_rollup", "Pss:")]
    }

    pub(crate) fn threads(&self) -> usize {
        let of = |id: &u32| fs::read_dir(format!("/proc/{id}/task")).map_or(0, Iterator::count);
        self.processes().iter().map(of).sum()
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        let of = |id: &u32| fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
        self.processes().iter().map(of).sum()
    }

    /// Processor time so far, in hundredths of a second.
    pub(crate) fn ticks(&self) -> u64 {
        let of = |id: &u32| stat(*id).map(|stat| stat[11] + stat[12]);
        self.processes().iter().filter_map(of).sum()
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    fn keepalived(&self, interval: &str, timeout: &str) -> anyhow::Result<Command> {
        let mut text = String::from("global_defs {\nrouter_id guest\n}\n");
        let service = self.net.service();
        text += &format!(
            "virtual_server {} {} {{\n{interval}\nlb_algo rr\nlb_kind NAT\nprotocol TCP\n",
            service.ip(),
            service.port()
        );
        for master in &self.masters {
            text += &format!(
                "real_server {} {} {{\nweight 1\nSSL_GET {{\nurl {{\npath /healthz\nstatus_code 200\n}}\n{timeout}\n}}\n}}\n",
                master.ip(),
                master.port()
            );
        }
        text += "}\n";
        let path = self.write("keepalived.conf", &text)?;
        let mut command = Command::new(self.kind.program());
        command.args(["--dont-fork", "--log-console", "--check"]);
        command.arg("--use-file").arg(path);
        command.arg("--pid").arg(self.folder.join("pid"));
        command
            .arg("--checkers_pid")
            .arg(self.folder.join("checkers.pid"))
            // keepalived uses this file even without BFD in its configuration.
            .arg("--bfd_pid")
            .arg(self.folder.join("bfd.pid"));
        Ok(command)
    }

    fn haproxy(&self) -> String {
        let mut text = format!(
            "global\n maxconn 4000\n stats socket {}\n\
             defaults\n mode http\n option dontlognull\n option http-server-close\n option redispatch\n retries 5\n \
             timeout http-request 5m\n timeout queue 5m\n timeout connect 30s\n timeout client 15m\n timeout server 15m\n \
             timeout http-keep-alive 30s\n timeout check 30s\n maxconn 4000\n\
             frontend kube_api_frontend\n bind {}\n mode tcp\n default_backend kube_api_backend\n\
             backend kube_api_backend\n mode tcp\n balance leastconn\n \
             default-server inter 15s downinter 15s rise 2 fall 2 slowstart 60s maxconn 1000 maxqueue 256 weight 100\n \
             option httpchk GET /healthz\n http-check expect status 200\n",
            self.stats().display(),
            self.net.loopback()
        );
        for (n, master) in self.masters.iter().enumerate() {
            text += &format!(" server m{} {master} check check-ssl verify none\n", n + 1);
        }
        text
    }

    /// HAProxy's control socket.
    pub(crate) fn stats(&self) -> PathBuf {
        self.folder.join("stats")
    }

    fn nginx(&self) -> String {
        let servers: String = self
            .masters
            .iter()
            .map(|master| format!("server {master};\n"))
            .collect();
        format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nuser root;\ndaemon off;\npid {}/nginx.pid;\n\
             error_log stderr notice;\nworker_processes 2;\nworker_rlimit_nofile 130048;\nworker_shutdown_timeout 10s;\n\
             events {{ multi_accept on; use epoll; worker_connections 16384; }}\n\
             stream {{\nupstream kube_apiserver {{ least_conn;\n{servers}}}\n\
             server {{ listen {}; proxy_pass kube_apiserver; proxy_timeout 10m; proxy_connect_timeout 1s; }}\n}}\n",
            self.folder.display(),
            self.net.loopback()
        )
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The numbers of `/proc/<id>/stat` after the name of the program: state (as 0), parent, ...
fn stat(id: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let rest = &text[text.rfind(')')? + 1..];
    let numbers = rest
        .split_whitespace()
        .map(|word| word.parse().unwrap_or(0));
    Some(numbers.collect())
}
