//! `imagegen serve`: gives the machines of a room what they need to boot over the network.
//!
//! 1. [`http`] serves `pxe/` to everybody, since it holds no secret, and each host's document only
//!    to that host: [`hosts`] knows the hosts, [`neighbours`] who asks.
//! 2. [`dhcp`] runs dnsmasq for DHCP and TFTP, by which firmware finds its way here.
//! 3. [`table`] shows who fetched what.

pub mod dhcp;
pub mod hosts;
pub mod http;
pub mod link;
pub mod neighbours;
mod range;
pub mod table;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use build_tools::cache::Cache;
use build_tools::progress::Progress;

use self::dhcp::Dhcp;
use self::hosts::Hosts;
use self::http::Server;
use self::link::Link;
use self::table::Table;
use crate::cli::{DhcpMode, Serve};
use crate::image::live;
use crate::pipeline::pxe;

/// The script that iPXE asks for beside itself, by TFTP or HTTP, before it asks by DHCP.
pub const AUTOEXEC: &str = "autoexec.ipxe";

/// Leads iPXE to the script of `server`. The URL is complete: `dhcp` makes iPXE forget where it is
/// from.
pub fn autoexec(server: SocketAddr) -> String {
    format!("#!ipxe\ndhcp\nchain http://{server}/{}\n", live::SCRIPT)
}

/// Serves until Ctrl-C.
pub fn run(folder: &Path, args: &Serve) -> Result<()> {
    pxe::check(folder)?;
    let hosts = Arc::new(Hosts::open(folder)?);
    let link = args.interface.as_deref().map(Link::find).transpose()?;
    let address = match (&link, args.address) {
        (_, Some(address)) => address,
        (Some(link), None) => link.address,
        (None, None) => Ipv4Addr::UNSPECIFIED,
    };
    let table = Arc::new(Table::new());
    let server = Arc::new(Server::new(folder, hosts.clone(), table.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the server")?;
    runtime.block_on(async {
        let socket = SocketAddr::new(IpAddr::V4(address), args.port);
        let listener = match tokio::net::TcpListener::bind(socket).await {
            Ok(listener) => listener,
            Err(error) => bail!("listening on {socket}: {error}; give another --port or --address"),
        };
        let socket = listener.local_addr().context("asking for the port")?;
        let mut dhcp = match &link {
            None => None,
            Some(link) => Some(start(folder, link, args.dhcp, socket, &hosts, &table)?),
        };
        table.say(&format!(
            "serving `{}` at http://{socket}/{}",
            folder.display(),
            live::SCRIPT
        ));
        match &link {
            Some(link) => table.say(&format!(
                "{} on {} ({}/{}) for {} hosts; switch them on with network boot (UEFI)",
                args.dhcp.title(),
                link.name,
                link.address,
                link.prefix,
                hosts.count()
            )),
            None => table.say(
                "no DHCP and TFTP here: point an existing DHCP server at it, or give --interface",
            ),
        }
        let ended = async {
            match &mut dhcp {
                Some(dhcp) => dhcp.ended().await,
                None => std::future::pending().await,
            }
        };
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .context("listening for signals")?;
        tokio::select! {
            result = http::accept(listener, server) => result,
            error = ended => Err(error),
            _ = tokio::signal::ctrl_c() => Ok(()),
            _ = terminate.recv() => Ok(()),
        }
    })
}

fn start(
    folder: &Path,
    link: &Link,
    mode: DhcpMode,
    http: SocketAddr,
    hosts: &Hosts,
    table: &Arc<Table>,
) -> Result<Dhcp> {
    let program = dhcp::program(|| live::tree(&Cache::open()?, &Progress::stderr()))?;
    let loader = folder.join(pxe::PXE).join(live::LOADER);
    let text = dhcp::configuration(link, mode, http.port(), &hosts.all()?)?;
    let script = autoexec((link.address, http.port()).into());
    Dhcp::start(program, &text, &loader, &script, hosts, table)
}
