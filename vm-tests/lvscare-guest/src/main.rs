//! Tests lvscare with the IPVS of a kernel. It is the only program of a machine that is thrown away
//! (`InitrdTest` of vm-tests).
//!
//! `codec` and `care` need the modules `ip_vs ip_vs_rr ip_vs_wlc nf_conntrack inet_diag tcp_diag`,
//! and a static `lvscare` as `/bin/lvscare`. They assume that the complete IPVS table is theirs: do
//! not run them on a host. Each passed check prints a line `ok ...`; the first failed one ends the
//! program.
//!
//! `faults`, `storm` and `bench` also need programs of Debian, which
//! `vm_tests::initrd::lvscare_guest` lists. They print lines of JSON.

mod apiserver;
mod balancer;
mod bench;
mod care;
mod client;
mod codec;
mod faults;
mod lossy_link;
mod master;
mod net;
mod netns;
mod pki;
mod report;
mod table;
mod testbed;

use std::net::SocketAddr;

use anyhow::bail;
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::route::{RouteScope, RouteType};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

const SERVICE: &str = "10.103.97.2:6443";
const PROGRAM: &str = "/bin/lvscare";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match arguments.as_slice() {
        ["codec"] => {
            runtime.block_on(lo_up())?;
            codec::codec()
        }
        ["care"] => {
            runtime.block_on(lo_up())?;
            care::care(&runtime)
        }
        ["apiserver", rest @ ..] => runtime.block_on(apiserver::main(rest)),
        ["faults", family] => faults::main(family),
        ["storm", family, seconds] => lossy_link::main(family, seconds),
        ["bench", faults, rounds, slow, lossy_seconds] => {
            bench::main(faults, rounds, slow, lossy_seconds)
        }
        other => bail!("unknown test {other:?}"),
    }
}

fn ok(check: &str) {
    println!("ok {check}");
}

fn address(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn master(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 6443))
}

/// Sets up loopback: IPVS answers NEW_DEST with EINVAL while the local routing table is empty.
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
