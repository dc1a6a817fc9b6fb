//! Checks the IPVS codec: the kernel reads what it writes, and the other way round.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use lvscare::apply::Table;
use lvscare::ipvs::{Destination, Error, Forwarding, Identity, Ipvs, Service};

use crate::{SERVICE, address, ok};

pub(crate) fn codec() -> anyhow::Result<()> {
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
            "the service exists already"
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
            "the service was created twice"
        );
        let Identity::Address { address: vip, .. } = service.identity else {
            bail!("no address")
        };
        let mut server = Destination::masquerade(address(server), 1);
        ipvs.new_destination(service.identity, &server)?;
        ensure!(
            ipvs.new_destination(service.identity, &server)
                .is_err_and(|error| error.is_race()),
            "the server was added twice"
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
            "the service was not changed"
        );
        ipvs.delete_service(service.identity)?;
        ensure!(
            ipvs.delete_service(service.identity)
                .is_err_and(|error| error.is_race()),
            "the service was deleted twice"
        );
        // For a missing service the kernel returns an empty list, as for one without servers.
        ensure!(
            ipvs.destinations(vip)?.is_empty(),
            "a missing service has servers"
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
    ok("foreign services: firewall marks, direct routing, a server on this node");

    let start = Instant::now();
    for n in 0..10_000u16 {
        let [high, low] = n.to_be_bytes();
        ipvs.new_service(&Service::tcp(
            SocketAddr::from(([10, 97, high, low], 443)),
            "rr",
        ))?;
    }
    let (made, start) = (start.elapsed(), Instant::now());
    ensure!(
        ipvs.services()?.len() == 10_002,
        "{}",
        ipvs.services()?.len()
    );
    let (listed, start) = (start.elapsed(), Instant::now());
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
        "   10,000 services: created in {made:?}, listed in {listed:?}; one more created and read in {:?}",
        start.elapsed()
    );
    ok("a table with 10,000 foreign services");
    Ok(())
}
