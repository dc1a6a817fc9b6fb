//! A topology's machines on one switch, with a door for this host.
//!
//! What the machines are told is imagegen's doing; here they only get their disks and cables.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use firstboot::journal::{DOCUMENT_REFUSED, FAILED, READY};
use serde::Deserialize;

use crate::artifacts::Output;
use crate::disk;
use crate::door::Door;
use crate::host::Host;
use crate::journal::{Record, Want};
use crate::net::{Port, Switch};
use crate::qemu::{Boot, DiskFile, DiskFormat, Machine};
use crate::run::Run;
use crate::vm::Vm;

/// From power-on to ready, on a machine with KVM, at most.
pub const READY_DEADLINE: Duration = Duration::from_secs(360);

/// Where this host is in the virtual network.
pub const DOOR: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);

/// Room for state on every machine's disk.
const DISK: u64 = 12 << 30;

/// A cluster that is not switched on yet, or no longer.
#[derive(Debug)]
pub struct Cluster {
    pub switch: Switch,
    pub door: Door,
    pub members: Vec<Member>,
}

/// One host of the topology and its machine's parts.
#[derive(Debug)]
pub struct Member {
    pub name: String,
    pub is_master: bool,
    pub address: Ipv4Addr,
    pub port: Port,
    /// The machine as it will be started; a test may change it.
    pub machine: Machine,
}

impl Cluster {
    /// Gives every host of `output` a machine with a fresh disk.
    pub fn new(host: &Host, run: &Run, output: &Output) -> Result<Self> {
        let switch = Switch::start(run)?;
        let door = Door::open(&switch, DOOR, 24)?;
        let hosts = hosts(output.topology())?;
        let pace = host.pace(hosts.len());
        let mut members = Vec::new();
        for wanted in &hosts {
            members.push(member(host, run, output, &switch, wanted, pace)?);
        }
        Ok(Self {
            switch,
            door,
            members,
        })
    }

    pub fn member(&self, name: &str) -> Result<&Member> {
        self.members
            .iter()
            .find(|member| member.name == name)
            .with_context(|| format!("no host `{name}`"))
    }

    /// master0, which every cluster has.
    pub fn first(&self) -> &Member {
        &self.members[0]
    }

    /// A port of this host that leads to a member's apiserver.
    pub fn apiserver(&self, member: &Member) -> Result<SocketAddr> {
        self.door
            .forward(0, SocketAddrV4::new(member.address, 6443))
    }

    /// Fails if a packet was sent to an address that is not on the machines' own network or inside the cluster.
    pub fn no_packet_left(&self) -> Result<()> {
        for address in self.switch.destinations() {
            let inside = match address {
                std::net::IpAddr::V4(four) => {
                    let bytes = four.octets();
                    bytes[..3] == DOOR.octets()[..3]
                        || four.is_multicast()
                        || four.is_broadcast()
                        || four.is_unspecified()
                }
                std::net::IpAddr::V6(six) => six.is_multicast() || six.is_unicast_link_local(),
            };
            if !inside {
                bail!("a packet was sent to {address}, which is outside the machines' network");
            }
        }
        Ok(())
    }
}

impl Member {
    pub fn start(&self, host: &Host, run: &Run) -> Result<Vm> {
        let mut machine = self.machine.clone();
        for nic in &mut machine.nics {
            *nic = self.port.nic(&nic.mac);
        }
        Vm::start(host, run, &machine)
    }

    /// The disk that is written to.
    pub fn disk(&self) -> &DiskFile {
        &self.machine.disks[0]
    }
}

/// Waits until firstboot says that the machine is what its document says; its own failure ends the wait at once.
pub fn wait_ready(vm: &Vm) -> Result<Record> {
    vm.wait_for(
        &Want::id(READY),
        &[Want::id(FAILED), Want::id(DOCUMENT_REFUSED)],
        READY_DEADLINE,
    )
}

/// A machine with the image, its document, and a cable.
fn member(
    host: &Host,
    run: &Run,
    output: &Output,
    switch: &Switch,
    wanted: &TopologyHost,
    pace: f64,
) -> Result<Member> {
    let port = switch.port()?;
    let disk = disk::overlay_of_size(
        host,
        run,
        &wanted.name,
        &output.image(),
        DiskFormat::Raw,
        Some(DISK),
    )?;
    let machine = Machine {
        disks: vec![disk, disk::seed(&output.seed(&wanted.name))],
        nics: vec![port.nic(&wanted.mac)],
        pace,
        ..Machine::new(&wanted.name, Boot::Uefi)
    };
    Ok(Member {
        name: wanted.name.clone(),
        is_master: wanted.role == "master",
        address: wanted.address()?,
        port,
        machine,
    })
}

/// What a machine's parts follow from; imagegen has checked the rest.
#[derive(Debug, Deserialize)]
struct Topology {
    hosts: Vec<TopologyHost>,
}

#[derive(Debug, Deserialize)]
struct TopologyHost {
    name: String,
    role: String,
    address: String,
    mac: String,
}

impl TopologyHost {
    fn address(&self) -> Result<Ipv4Addr> {
        let text = self.address.split('/').next().unwrap_or_default();
        text.parse()
            .with_context(|| format!("host `{}`: address `{text}` is not IPv4", self.name))
    }
}

fn hosts(topology: &Path) -> Result<Vec<TopologyHost>> {
    let text = fs::read_to_string(topology)
        .with_context(|| format!("reading `{}`", topology.display()))?;
    // Leniently: the fields that are not needed here count as unknown.
    let (parsed, _) = userdata::yaml::parse_leniently::<Topology>("topology", &text, false);
    let parsed = parsed.with_context(|| format!("reading `{}`", topology.display()))?;
    Ok(parsed.value.hosts)
}
