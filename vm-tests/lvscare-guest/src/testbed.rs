//! A network of fake apiservers and workers. Each host and the bridge is a network namespace.
//!
//! Each testbed has its own servers, so that faults in one do not affect another.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::apiserver::ENDPOINTS;
use crate::balancer::{Balancer, Kind};
use crate::master::Master;
use crate::net::{Family, Net};
use crate::netns::Netns;
use crate::pki::Pki;

pub(crate) struct Testbed {
    pub(crate) net: Net,
    pub(crate) pki: Pki,
    pub(crate) masters: Vec<Master>,
    pub(crate) workers: Vec<Worker>,
    switch: Netns,
    folder: PathBuf,
}

/// A host with a balancer.
pub(crate) struct Worker {
    pub(crate) netns: Netns,
    pub(crate) balancer: Balancer,
}

impl Testbed {
    /// Starts three servers, and adds a worker for each kind of balancer.
    pub(crate) fn new(net: Net, kinds: &[Kind]) -> anyhow::Result<Self> {
        let folder = PathBuf::from(format!("/run/c{}", net.testbed));
        let pki = Pki::new(&folder)?;
        let switch = Netns::new(&format!("c{}", net.testbed))?;
        switch.ip("link add br0 type bridge forward_delay 0\nlink set br0 up\n")?;
        let mut testbed = Self {
            net,
            pki,
            masters: Vec::new(),
            workers: Vec::new(),
            switch,
            folder,
        };
        for n in 1..=3 {
            testbed.add_master(n)?;
        }
        testbed.write_endpoints(&[1, 2, 3])?;
        for (n, kind) in (1..).zip(kinds) {
            testbed.add_worker(n, *kind)?;
        }
        Ok(testbed)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts one more server.
    pub(crate) fn add_master(&mut self, n: u8) -> anyhow::Result<()> {
        let address = self.net.master(n);
        let netns = self.add_host(&format!("m{n}"), address.ip())?;
        let folder = self.folder.join(format!("m{n}"));
        fs::create_dir_all(&folder)?;
        self.pki
            .server(&folder, &[address.ip(), self.net.service().ip()])?;
        let mut master = Master::new(n, address, netns, self.switch.clone(), &folder);
        master.start()?;
        self.masters.push(master);
        Ok(())
    }

    /// Writes the addresses of the EndpointSlice.
    pub(crate) fn write_endpoints(&self, masters: &[u8]) -> anyhow::Result<()> {
        let lines: String = masters
            .iter()
            .map(|n| format!("{}\n", self.net.master(*n).ip()))
            .collect();
        crate::master::replace(&self.folder.join(ENDPOINTS), &lines)
    }

    pub(crate) fn master(&mut self, n: u8) -> &mut Master {
        &mut self.masters[usize::from(n) - 1]
    }

    pub(crate) fn lvscare_worker(&mut self) -> &mut Worker {
        &mut self.workers[0]
    }

    /// Adds a worker.
    pub(crate) fn add(&mut self, kind: Kind) -> anyhow::Result<()> {
        let n = u8::try_from(self.workers.len() + 1)?;
        self.add_worker(n, kind)
    }

    fn add_worker(&mut self, n: u8, kind: Kind) -> anyhow::Result<()> {
        let address = self.net.worker(n);
        let netns = self.add_host(&format!("w{n}"), address)?;
        let masters: Vec<_> = self.masters.iter().map(|master| master.address).collect();
        let balancer = Balancer::new(
            kind,
            netns.clone(),
            self.net,
            address,
            masters,
            &self.folder,
        )?;
        self.workers.push(Worker { netns, balancer });
        Ok(())
    }

    /// Adds a pod to worker `n`, with the masquerade rule that network plugins add.
    pub(crate) fn add_pod(&self, n: u8) -> anyhow::Result<Netns> {
        let worker = &self.workers[usize::from(n) - 1].netns;
        let [near, far] = self.net.pod(n);
        let pod = Netns::new(&format!("p{n}"))?;
        let prefix = self.net.prefix();
        worker.ip(&format!(
            "link add pod type veth peer name eth0 netns {}\naddr add {near}/{prefix} dev pod\nlink set pod up\n",
            pod.path()
        ))?;
        pod.ip(&format!(
            "addr add {far}/{prefix} dev eth0\nlink set eth0 up\nroute add default via {near}\n"
        ))?;
        let (family, forward) = match self.net.family {
            Family::V4 => ("ip", "/proc/sys/net/ipv4/ip_forward"),
            Family::V6 => ("ip6", "/proc/sys/net/ipv6/conf/all/forwarding"),
        };
        worker.run(|| fs::write(forward, "1"))?;
        worker.nft(&format!(
            "table {family} pods {{ chain out {{ type nat hook postrouting priority srcnat; {family} saddr {far} \
             oifname eth0 masquerade; }}; }}\n"
        ))?;
        Ok(pod)
    }

    /// Adds a host to the bridge.
    fn add_host(&self, name: &str, address: IpAddr) -> anyhow::Result<Netns> {
        let netns = Netns::new(name)?;
        self.switch.ip(&format!(
            "link add {name} type veth peer name eth0 netns {}\nlink set {name} master br0\nlink set {name} up\n",
            netns.path()
        ))?;
        let prefix = self.net.prefix();
        netns.ip(&format!(
            "addr add {address}/{prefix} dev eth0\nlink set eth0 up\n"
        ))?;
        Ok(netns)
    }

    /// Adds loss in both directions, and delay from the servers, to their links.
    pub(crate) fn degrade_links(&self) -> anyhow::Result<()> {
        for master in &self.masters {
            master
                .netns
                .call("tc qdisc add dev eth0 root netem delay 50ms 50ms loss 1%")?;
            let n = master.n;
            self.switch
                .call(&format!("tc qdisc add dev m{n} root netem loss 1%"))?;
        }
        Ok(())
    }
}
