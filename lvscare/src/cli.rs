//! The command line: the flags of the original lvscare in their spelling, and our own.
//!
//! Deprecated flags without effect are accepted with a warning, so that old manifests run. Every
//! flag has an environment variable `CARE_<FLAG>`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{HeaderName, HeaderValue};

use crate::discovery::{Discovery, Intervals};
use crate::pool::Rules;
use crate::pool::health::Thresholds;
use crate::pool::members::Sources;
use crate::probe::checker::Timing;
use crate::probe::connection::{HealthRequest, READYZ};
use crate::settings::Settings;
use crate::tls::{Tls, Trust};

/// The cluster's CA certificate, where kubeadm writes it.
const CA: &str = "/etc/kubernetes/pki/ca.crt";

/// kubelet's kubeconfig, and our cache of the discovered list.
const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
const CACHE: &str = "/var/lib/lvscare/members.json";

/// Statuses of an apiserver that requires authentication, and of a server without `/readyz`.
const DEFAULT_ACCEPTED: [u16; 3] = [401, 403, 404];

/// Keeps an IPVS virtual server of this node pointing at the apiservers that answer.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit status of `run-once --wait`: 75 if no server answered in time (all are in the \
table then).\nExit status of `status`: 0 all up, 1 degraded, 2 no server up and all tried, 3 not set up.\nExit status \
of `care`: 0 stopped by a signal, 1 cannot start, 70 stuck for 10 s; what may heal never ends it."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub options: Options,
}

#[derive(Debug, Clone, Copy, Subcommand, PartialEq, Eq)]
pub enum Command {
    /// Run the daemon until SIGTERM or SIGINT (the default).
    Care,
    /// Set everything up, probe once, and exit.
    RunOnce,
    /// Show the state of the daemon and the kernel.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
#[command(next_display_order = None)]
pub struct Options {
    /// Virtual server: `ip:port`, TCP
    #[arg(long, env = "CARE_VS", global = true)]
    pub vs: Option<SocketAddr>,
    /// Real servers: `ip:port`, repeated or separated by commas
    #[arg(long, env = "CARE_RS", value_delimiter = ',', global = true)]
    pub rs: Vec<SocketAddr>,
    /// IPVS scheduler; with `fo` a server on this node is preferred
    #[arg(long, env = "CARE_SCHEDULER", default_value = "rr", global = true)]
    pub scheduler: String,
    /// Source address of connections to the virtual server, instead of the one this node uses to
    /// reach the real ones
    #[arg(long, env = "CARE_IP", global = true)]
    pub ip: Option<IpAddr>,
    /// Time between probes: seconds, or a number with ms, s, m or h
    #[arg(long, env = "CARE_INTERVAL", value_parser = duration, global = true)]
    pub interval: Option<Duration>,
    /// Longest time one probe may take
    #[arg(long, env = "CARE_HEALTH_TIMEOUT", value_parser = duration, default_value = "10s", global = true)]
    pub health_timeout: Duration,
    /// Set up, probe once, exit (also `run-once`)
    #[arg(long, env = "CARE_RUN_ONCE", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", global = true)]
    pub run_once: bool,
    /// With run-once: probe until one server is up, at most this long
    #[arg(long, env = "CARE_WAIT", value_parser = duration, global = true)]
    pub wait: Option<Duration>,
    /// Remove the virtual server and its route, and exit
    #[arg(short = 'C', long, env = "CARE_CLEAN", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", global = true)]
    pub clean: bool,
    /// With run-once: print the changes without applying them
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Path of the health request; `/healthz` if `/readyz` does not exist
    #[arg(long, env = "CARE_HEALTH_PATH", default_value = READYZ, global = true)]
    pub health_path: String,
    /// `https` or `http`
    #[arg(long, env = "CARE_HEALTH_SCHEM", alias = "health-scheme", default_value = "https", value_parser = ["https", "http"], global = true)]
    pub health_schem: String,
    #[arg(
        long,
        env = "CARE_HEALTH_REQ_METHOD",
        default_value = "GET",
        global = true
    )]
    pub health_req_method: Method,
    #[arg(long, env = "CARE_HEALTH_REQ_BODY", default_value = "", global = true)]
    pub health_req_body: String,
    /// `name=value`, repeated or separated by commas
    #[arg(long, env = "CARE_HEALTH_REQ_HEADERS", value_delimiter = ',', value_parser = header, global = true)]
    pub health_req_headers: Vec<(HeaderName, HeaderValue)>,
    /// Statuses from 400 on that mean up, instead of 401, 403 and 404
    #[arg(long, env = "CARE_HEALTH_STATUS", value_delimiter = ',', global = true)]
    pub health_status: Vec<u16>,
    /// Accept any certificate; any host that takes a server's address can then impersonate it
    #[arg(long, env = "CARE_HEALTH_INSECURE_SKIP_VERIFY", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", global = true)]
    pub health_insecure_skip_verify: bool,
    /// CA certificates for the servers' certificates
    #[arg(long, env = "CARE_CA", default_value = CA, global = true)]
    pub ca: PathBuf,
    /// File with real servers, read again when it changes: `rs: [ip:port, ...]`, YAML or JSON; with
    /// `--rs` it is ignored
    #[arg(long, env = "CARE_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Discover apiservers through the Kubernetes API: `auto` or `off`
    #[arg(long, env = "CARE_DISCOVER", default_value = "auto", value_parser = ["auto", "off"], global = true)]
    pub discover: String,
    /// Kubeconfig of this node for discovery; `auto` waits for the file
    #[arg(long, env = "CARE_KUBECONFIG", default_value = KUBECONFIG, global = true)]
    pub kubeconfig: PathBuf,
    /// Cache file of the discovered list
    #[arg(long, env = "CARE_CACHE", default_value = CACHE, global = true)]
    pub cache: PathBuf,
    /// Good probes in a row until a server is up again
    #[arg(long, env = "CARE_RISE", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), global = true)]
    pub rise: u32,
    /// Bad probes in a row until a server that still accepts connections is sick
    #[arg(long, env = "CARE_FALL", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), global = true)]
    pub fall: u32,
    /// A server sick for this long loses its flows too, if another is up
    #[arg(long, env = "CARE_KILL_SICK_AFTER", value_parser = duration, default_value = "30s", global = true)]
    pub kill_sick_after: Duration,
    /// Leave the flows of dead servers alone
    #[arg(long, env = "CARE_NO_KILL", global = true)]
    pub no_kill: bool,
    /// Where to serve /livez, /metrics and /status; loopback is enough
    #[arg(
        long,
        env = "CARE_STATUS_ADDR",
        default_value = "127.0.0.1:10354",
        global = true
    )]
    pub status_addr: SocketAddr,
    /// INFO or DEBG
    #[arg(long, env = "CARE_LOGGER", default_value = "INFO", global = true)]
    pub logger: String,

    #[arg(long, env = "CARE_MODE", hide = true, global = true)]
    pub mode: Option<String>,
    #[arg(short = 'i', long, env = "CARE_IFACE", hide = true, global = true)]
    pub iface: Option<String>,
    #[arg(long, env = "CARE_MASQUERADEBIT", hide = true, global = true)]
    pub masqueradebit: Option<u32>,
}

impl Options {
    pub fn service(&self) -> anyhow::Result<SocketAddr> {
        let service = self.vs.context("no virtual server; set `--vs ip:port`")?;
        // The transmit path drops packets with a 127/8 source that leave the machine
        // (`crosses_local_route_boundary`).
        ensure!(
            !service.ip().is_loopback(),
            "`--vs {service}` is loopback, and IPVS cannot forward from there"
        );
        ensure!(
            !service.ip().is_unspecified() && service.port() != 0,
            "`--vs {service}` is not a usable address"
        );
        Ok(service)
    }

    /// `seed` identifies this node: it rotates the server list.
    pub fn settings(&self, seed: &str) -> anyhow::Result<Settings> {
        let service = self.service()?;
        if let Some(source) = self.ip {
            ensure!(
                source.is_ipv4() == service.is_ipv4(),
                "`--ip {source}` is of another family than `--vs {service}`"
            );
        }
        let interval = self
            .interval
            .filter(|interval| !interval.is_zero())
            .unwrap_or(Duration::from_millis(500));
        let thresholds = Thresholds {
            rise: self.rise,
            fall: self.fall,
            interval,
        };
        let discovery = (self.discover == "auto").then(|| Discovery {
            service,
            kubeconfig: self.kubeconfig.clone(),
            intervals: Intervals::default(),
        });
        Ok(Settings {
            service,
            scheduler: self.scheduler.clone(),
            sources: Sources {
                service,
                scheduler: self.scheduler.clone(),
                seed: seed.to_owned(),
                flags: self.rs.clone(),
                file: self.config.clone(),
                cache: discovery.is_some().then(|| self.cache.clone()),
            },
            discovery,
            source: self.ip,
            path: format!("/{}", self.health_path.trim_start_matches('/')),
            health_request: Arc::new(self.health_request()?),
            timing: Timing {
                interval,
                timeout: self.health_timeout,
                ..Timing::default()
            },
            rules: Rules {
                thresholds,
                kill_sick_after: self.kill_sick_after,
            },
            kill: !self.no_kill,
            status_address: self.status_addr,
        })
    }

    /// Deprecated flags without effect that were given.
    pub fn ignored(&self) -> Vec<&'static str> {
        let flags = [
            ("--mode", self.mode.is_some()),
            ("--iface", self.iface.is_some()),
            ("--masqueradebit", self.masqueradebit.is_some()),
        ];
        flags
            .into_iter()
            .filter_map(|(flag, given)| given.then_some(flag))
            .collect()
    }

    /// The accepted certificates.
    fn trust(&self) -> Trust {
        if self.health_insecure_skip_verify {
            Trust::Anyone
        } else {
            Trust::Authority(self.ca.clone())
        }
    }

    fn health_request(&self) -> anyhow::Result<HealthRequest> {
        let tls = Tls::new(self.trust());
        if self.health_schem == "https" {
            // A file missing later is transient; at start it is an error.
            tls.config().context(
                "no CA to verify the servers' certificates; set `--ca`, or accept any certificate with \
                 `--health-insecure-skip-verify`",
            )?;
        }
        let accepted = if self.health_status.is_empty() {
            DEFAULT_ACCEPTED.to_vec()
        } else {
            self.health_status.clone()
        };
        Ok(HealthRequest {
            tls: (self.health_schem == "https").then(|| Arc::new(tls)),
            method: self.health_req_method.clone(),
            headers: self.health_req_headers.clone(),
            body: Bytes::from(self.health_req_body.clone()),
            accepted,
        })
    }
}

/// `5` (seconds), as in the original lvscare, or `500ms` and `1m30s`, as in Go.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration; write 5, 500ms, 5s, 1m30s or 2h");
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(total)
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is no header; write name=value"))?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| format!("`{name}` is no header name"))?;
    // The value may be a secret.
    let value = value
        .parse()
        .map_err(|_| format!("the value of header `{name}` has a character no header may have"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests;
