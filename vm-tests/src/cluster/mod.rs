//! The machines of a topology on one switch, and a port forward from the host.
//!
//! imagegen writes the image and the documents; here each machine gets its disks and network card.

pub mod checks;
pub mod etcd;
pub mod invariants;
pub mod kubectl;
pub mod snapshot;
pub mod ssh;
pub mod testbed;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use firstboot::journal::{DOCUMENT_REFUSED, FAILED, READY};
use imagegen::plan::{ClusterPlan, HostPlan};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use userdata::node_config::Role;

use crate::host::artifacts::Output;
use crate::host::run_dir::RunDir;
use crate::host::{Host, available_memory_mib};
use crate::machine::disk;
use crate::machine::journal::{Record, RecordMatch};
use crate::machine::qemu::{Boot, DiskFile, DiskFormat, Machine};
use crate::machine::vm::Vm;
use crate::net::port_forward::PortForward;
use crate::net::switch::{Port, Switch};

/// The deadline from power-on to ready on a machine with KVM.
pub const READY_DEADLINE: Duration = Duration::from_secs(360);

/// The addresses of the test host in the virtual network. Topologies may name them as gateways.
pub const HOST_ADDRESSES: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 7, 1), 24)),
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 1),
        64,
    )),
];

/// The size of every machine's disk.
const DISK_SIZE: u64 = 12 << 30;

/// A worker runs neither etcd nor kube-apiserver.
const WORKER_MEMORY_MIB: u32 = 2048;

/// The parts of a cluster, whether its machines run or not.
#[derive(Debug)]
pub struct Cluster {
    pub switch: Switch,
    pub port_forward: PortForward,
    pub members: Vec<Member>,
    /// The topology with every default.
    pub plan: ClusterPlan,
}

/// One host of the topology and the parts of its machine.
#[derive(Debug)]
pub struct Member {
    pub name: String,
    /// Whether the host has the role `master`, and not `node`.
    pub is_control_plane: bool,
    /// The node's address: the first of the topology.
    pub address: IpAddr,
    pub port: Port,
    /// The configuration for the next start; a test may change it.
    pub machine: Machine,
}

impl Cluster {
    /// Creates a machine with a new disk for every host of `output`.
    pub fn new(host: &Host, run_dir: &RunDir, output: &Output) -> Result<Self> {
        let switch = Switch::start(run_dir)?;
        let port_forward = PortForward::start(&switch, &HOST_ADDRESSES)?;
        let plan = plan(output.topology())?;
        let machines = plan.hosts.len();
        let time_scale = host.time_scale(machines);
        let cpus = host.cpus(machines);
        let mut members = Vec::new();
        for wanted in &plan.hosts {
            let mut member = member(host, run_dir, output, &switch, wanted, time_scale)?;
            member.machine.cpus = cpus;
            members.push(member);
        }
        Ok(Self {
            switch,
            port_forward,
            members,
            plan,
        })
    }

    /// A warning if the machines may use more memory than the host has. They allocate it on demand,
    /// so this is not an error.
    pub fn memory_warning(&self) -> Option<String> {
        let available = available_memory_mib()?;
        let machines = self.members.iter();
        let needed: u64 = machines
            .map(|member| u64::from(member.machine.memory_mib))
            .sum();
        (needed > available).then(|| {
            format!(
                "warning: the machines may use {needed} MiB of memory, {available} MiB are \
                 available"
            )
        })
    }

    /// Gives every machine its document of `output` for the next boot.
    pub fn take_documents(&mut self, output: &Output) -> Result<()> {
        self.plan = plan(output.topology())?;
        for wanted in self.plan.hosts.clone() {
            let member = self.member_mut(&wanted.name)?;
            member.address = wanted.address();
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
            .with_context(|| format!("the topology has no host `{name}`"))
    }

    /// The control-plane hosts, in the order of the topology.
    pub fn control_plane(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.is_control_plane)
    }

    pub fn member_mut(&mut self, name: &str) -> Result<&mut Member> {
        self.members
            .iter_mut()
            .find(|member| member.name == name)
            .with_context(|| format!("the topology has no host `{name}`"))
    }

    /// `address:port` of the apiservers of all control-plane hosts except `without`.
    pub fn apiservers(&self, without: &[&str]) -> BTreeSet<String> {
        self.control_plane()
            .filter(|master| !without.contains(&master.name.as_str()))
            .map(|master| master.endpoint(6443))
            .collect()
    }

    /// The first host of the topology.
    pub fn first(&self) -> &Member {
        &self.members[0]
    }

    /// Forwards a port of the host to the apiserver of `member`, and returns its address.
    pub fn apiserver(&self, member: &Member) -> Result<SocketAddr> {
        self.port_forward
            .forward(0, SocketAddr::new(member.address, 6443))
    }

    /// Fails if a packet was sent to an address that belongs neither to the machines' network nor
    /// to a pod. Addresses of Services and the VIP must not be seen either: each host translates
    /// them.
    pub fn assert_no_packet_left(&self) -> Result<()> {
        let networks = self.plan.hosts.iter().flat_map(|host| &host.addresses);
        // Addresses of pods are seen, because the package's pod network routes between hosts.
        let known: Vec<&IpNet> = networks.chain(&self.plan.network.pods).collect();
        for address in self.switch.destinations() {
            let inside = address.is_multicast()
                || address.is_unspecified()
                || known.iter().any(|net| net.contains(&address))
                || match address {
                    IpAddr::V4(four) => four.is_broadcast(),
                    IpAddr::V6(six) => six.is_unicast_link_local(),
                };
            if !inside {
                bail!("a packet was sent to {address}, outside the machines' network");
            }
        }
        Ok(())
    }
}

impl Member {
    /// `address:port`
    pub fn endpoint(&self, port: u16) -> String {
        SocketAddr::new(self.address, port).to_string()
    }

    /// Starts the machine.
    pub fn start(&self, host: &Host, run_dir: &RunDir) -> Result<Vm> {
        Vm::start(host, run_dir, &self.connected())
    }

    /// Restores the machine from `state`, paused.
    pub fn restore(&self, host: &Host, run_dir: &RunDir, state: &Path) -> Result<Vm> {
        Vm::restore(host, run_dir, &self.connected(), state)
    }

    fn connected(&self) -> Machine {
        let mut machine = self.machine.clone();
        for nic in &mut machine.nics {
            *nic = self.port.nic(&nic.mac);
        }
        machine
    }

    /// Gives the machine, which is off, a new disk, which contains only the image.
    pub fn wipe(&mut self, host: &Host, run_dir: &RunDir, output: &Output) -> Result<()> {
        let name = format!("{}-wiped", self.name);
        let disk = fresh_disk(host, run_dir, &name, output)?;
        // The guest identifies the disk by its serial number, which stays the same.
        self.machine.disks[0].path = disk.path;
        Ok(())
    }

    /// The writable disk.
    pub fn disk(&self) -> &DiskFile {
        &self.machine.disks[0]
    }
}

/// Waits until firstboot reports the host ready. A failure of firstboot ends the wait.
pub fn wait_ready(vm: &Vm) -> Result<Record> {
    vm.wait_for(&RecordMatch::id(READY), &never_ready(), READY_DEADLINE)
}

/// The records of a host that cannot become ready.
pub fn never_ready() -> [RecordMatch<'static>; 2] {
    [RecordMatch::id(FAILED), RecordMatch::id(DOCUMENT_REFUSED)]
}

/// A machine with the image, its document and a network card.
fn member(
    host: &Host,
    run_dir: &RunDir,
    output: &Output,
    switch: &Switch,
    wanted: &HostPlan,
    time_scale: f64,
) -> Result<Member> {
    let port = switch.port()?;
    let disk = fresh_disk(host, run_dir, &wanted.name, output)?;
    let is_control_plane = wanted.role != Role::Node;
    let mut machine = Machine {
        disks: vec![disk, disk::seed(&output.seed(&wanted.name))],
        nics: vec![port.nic(&wanted.mac)],
        time_scale,
        ..Machine::new(&wanted.name, Boot::Uefi)
    };
    if !is_control_plane {
        machine.memory_mib = WORKER_MEMORY_MIB;
    }
    Ok(Member {
        name: wanted.name.clone(),
        is_control_plane,
        address: wanted.address(),
        port,
        machine,
    })
}

fn fresh_disk(host: &Host, run_dir: &RunDir, name: &str, output: &Output) -> Result<DiskFile> {
    disk::overlay_of_size(
        host,
        run_dir,
        name,
        &output.image(),
        DiskFormat::Raw,
        Some(DISK_SIZE),
    )
}

fn plan(topology: &Path) -> Result<ClusterPlan> {
    let name = topology.display().to_string();
    let text = fs::read_to_string(topology).with_context(|| format!("reading `{name}`"))?;
    match imagegen::topology::check::read(&name, &text) {
        Ok(checked) => Ok(checked.plan),
        Err(found) => bail!("{found}"),
    }
}
