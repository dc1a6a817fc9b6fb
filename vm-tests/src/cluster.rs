//! A topology's machines on one switch, with a door for this host.
//!
//! What the machines are told is imagegen's doing; here they only get their disks and cables.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use firstboot::journal::{DOCUMENT_REFUSED, FAILED, READY};
use ipnet::Ipv4Net;
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

/// imagegen's default.
const DEFAULT_PODS: &str = "10.244.0.0/16";

/// A node runs neither etcd nor an apiserver.
const NODE_MEMORY_MIB: u32 = 2048;

/// A cluster that is not switched on yet, or no longer.
#[derive(Debug)]
pub struct Cluster {
    pub switch: Switch,
    pub door: Door,
    pub members: Vec<Member>,
    /// The pods' addresses, which are on the wire as they are: the package's pod network routes between hosts.
    pods: Vec<Ipv4Net>,
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
        let topology = Topology::read(output.topology())?;
        let pace = host.pace(topology.hosts.len());
        let mut members = Vec::new();
        for wanted in &topology.hosts {
            members.push(member(host, run, output, &switch, wanted, pace)?);
        }
        Ok(Self {
            switch,
            door,
            members,
            pods: topology.network.pods(),
        })
    }

    /// Gives every machine the document that `output` has for it, for its next boot.
    pub fn take_documents(&mut self, output: &Output) -> Result<()> {
        for wanted in &Topology::read(output.topology())?.hosts {
            let member = self.member_mut(&wanted.name)?;
            member.address = wanted.address()?;
            let seed = disk::seed(&output.seed(&wanted.name));
            member.machine.disks.retain(|disk| !disk.read_only);
            member.machine.disks.push(seed);
        }
        Ok(())
    }

    pub fn member(&self, name: &str) -> Result<&Member> {
        self.members
            .iter()
            .find(|member| member.name == name)
            .with_context(|| format!("no host `{name}`"))
    }

    pub fn masters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.is_master)
    }

    pub fn member_mut(&mut self, name: &str) -> Result<&mut Member> {
        self.members
            .iter_mut()
            .find(|member| member.name == name)
            .with_context(|| format!("no host `{name}`"))
    }

    /// The apiservers' `address:port`, of all masters but `without`.
    pub fn apiservers(&self, without: &[&str]) -> BTreeSet<String> {
        self.masters()
            .filter(|master| !without.contains(&master.name.as_str()))
            .map(|master| format!("{}:6443", master.address))
            .collect()
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

    /// Fails if a packet was sent to an address that is neither on the machines' own network nor a pod's. A Service's
    /// address and the VIP are not to be seen either: both are translated on the host that uses them.
    pub fn no_packet_left(&self) -> Result<()> {
        let own = Ipv4Net::new(DOOR, 24)?;
        for address in self.switch.destinations() {
            let inside = match address {
                IpAddr::V4(four) => {
                    own.contains(&four)
                        || self.pods.iter().any(|pods| pods.contains(&four))
                        || four.is_multicast()
                        || four.is_broadcast()
                        || four.is_unspecified()
                }
                IpAddr::V6(six) => six.is_multicast() || six.is_unicast_link_local(),
            };
            if !inside {
                bail!("a packet was sent to {address}, which is outside the machines' network");
            }
        }
        Ok(())
    }
}

impl Member {
    /// Switches the machine on.
    pub fn start(&self, host: &Host, run: &Run) -> Result<Vm> {
        Vm::start(host, run, &self.plugged_in())
    }

    /// The machine as it was saved to `state`, paused.
    pub fn restore(&self, host: &Host, run: &Run, state: &Path) -> Result<Vm> {
        Vm::restore(host, run, &self.plugged_in(), state)
    }

    fn plugged_in(&self) -> Machine {
        let mut machine = self.machine.clone();
        for nic in &mut machine.nics {
            *nic = self.port.nic(&nic.mac);
        }
        machine
    }

    /// Gives the machine, which is off, a new disk with the image and nothing else.
    pub fn wipe(&mut self, host: &Host, run: &Run, output: &Output) -> Result<()> {
        let name = format!("{}-wiped", self.name);
        let disk = fresh_disk(host, run, &name, output)?;
        // The guest knows it by its serial number.
        self.machine.disks[0].path = disk.path;
        Ok(())
    }

    /// The disk that is written to.
    pub fn disk(&self) -> &DiskFile {
        &self.machine.disks[0]
    }
}

/// Waits until firstboot says that the machine is what its document says; its own failure ends the wait at once.
pub fn wait_ready(vm: &Vm) -> Result<Record> {
    vm.wait_for(&Want::id(READY), &never_ready(), READY_DEADLINE)
}

/// What a machine says that will not become ready.
pub fn never_ready() -> [Want<'static>; 2] {
    [Want::id(FAILED), Want::id(DOCUMENT_REFUSED)]
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
    let disk = fresh_disk(host, run, &wanted.name, output)?;
    let is_master = wanted.role == "master";
    let mut machine = Machine {
        disks: vec![disk, disk::seed(&output.seed(&wanted.name))],
        nics: vec![port.nic(&wanted.mac)],
        pace,
        ..Machine::new(&wanted.name, Boot::Uefi)
    };
    if !is_master {
        machine.memory_mib = NODE_MEMORY_MIB;
    }
    Ok(Member {
        name: wanted.name.clone(),
        is_master,
        address: wanted.address()?,
        port,
        machine,
    })
}

fn fresh_disk(host: &Host, run: &Run, name: &str, output: &Output) -> Result<DiskFile> {
    disk::overlay_of_size(
        host,
        run,
        name,
        &output.image(),
        DiskFormat::Raw,
        Some(DISK),
    )
}

/// What a machine's parts follow from; imagegen has checked the rest.
#[derive(Debug, Deserialize)]
struct Topology {
    #[serde(default)]
    network: Network,
    hosts: Vec<TopologyHost>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Network {
    /// One range or a list.
    pods: serde_json::Value,
}

#[derive(Debug, Deserialize)]
struct TopologyHost {
    name: String,
    role: String,
    address: String,
    mac: String,
}

impl Topology {
    fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading `{}`", path.display()))?;
        // Leniently: the fields that are not needed here count as unknown.
        let (parsed, _) = yaml::parse_leniently::<Self>("topology", &text, false);
        let parsed = parsed.with_context(|| format!("reading `{}`", path.display()))?;
        Ok(parsed.value)
    }
}

impl Network {
    fn pods(&self) -> Vec<Ipv4Net> {
        let texts = match &self.pods {
            serde_json::Value::Array(list) => list.iter().filter_map(|one| one.as_str()).collect(),
            one => vec![one.as_str().unwrap_or(DEFAULT_PODS)],
        };
        texts.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

impl TopologyHost {
    fn address(&self) -> Result<Ipv4Addr> {
        let text = self.address.split('/').next().unwrap_or_default();
        text.parse()
            .with_context(|| format!("host `{}`: address `{text}` is not IPv4", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_ranges_are_read_in_every_form_a_topology_may_have() {
        let pods = |text: &str| {
            let (parsed, _) = yaml::parse_leniently::<Topology>("t", text, false);
            parsed.map(|parsed| parsed.value.network.pods())
        };
        let net = |text: &str| text.parse::<Ipv4Net>().expect("a range");
        assert_eq!(pods("hosts: []"), Some(vec![net(DEFAULT_PODS)]));
        assert_eq!(
            pods("network: { pods: 10.9.0.0/16 }\nhosts: []"),
            Some(vec![net("10.9.0.0/16")])
        );
        assert_eq!(
            pods("network: { pods: [10.9.0.0/16, \"fd00::/56\"] }\nhosts: []"),
            Some(vec![net("10.9.0.0/16")])
        );
    }
}
