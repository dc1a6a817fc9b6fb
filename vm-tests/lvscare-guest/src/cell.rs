//! One network of masters and workers, all of them namespaces of this machine, joined by a bridge in another.
//!
//! Cells do not know of one another: each has its own masters, so that faults of one do not disturb another.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::apiserver::ENDPOINTS;
use crate::keeper::{Keeper, Kind};
use crate::master::Master;
use crate::pki::Pki;
use crate::space::Space;

const PORT: u16 = 6443;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        match text {
            "4" => Ok(Self::V4),
            "6" => Ok(Self::V6),
            other => bail!("family `{other}` is neither 4 nor 6"),
        }
    }
}

/// Addresses of one cell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Net {
    pub(crate) cell: u8,
    pub(crate) family: Family,
}

impl Net {
    pub(crate) fn master(self, n: u8) -> SocketAddr {
        SocketAddr::new(self.host(10 + n), PORT)
    }

    pub(crate) fn worker(self, n: u8) -> IpAddr {
        self.host(20 + n)
    }

    pub(crate) fn service(self) -> SocketAddr {
        let vip = match self.family {
            Family::V4 => Ipv4Addr::new(10, 103, 97, 2).into(),
            Family::V6 => Ipv6Addr::new(0xfd97, 0, 0, 0, 0, 0, 0, 2).into(),
        };
        SocketAddr::new(vip, PORT)
    }

    pub(crate) fn loopback(self) -> SocketAddr {
        match self.family {
            Family::V4 => SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
            Family::V6 => SocketAddr::from((Ipv6Addr::LOCALHOST, PORT)),
        }
    }

    pub(crate) fn prefix(self) -> u8 {
        match self.family {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }

    pub(crate) fn host(self, n: u8) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(10, self.cell, 0, n).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, self.cell.into(), 0, 0, 0, 0, 0, n.into()).into(),
        }
    }

    /// Two ends of the cable between a worker and its pod.
    fn pod(self, n: u8) -> [IpAddr; 2] {
        [1, 2].map(|end| match self.family {
            Family::V4 => Ipv4Addr::new(10, 244, n, end).into(),
            Family::V6 => Ipv6Addr::new(0xfd44, n.into(), 0, 0, 0, 0, 0, end.into()).into(),
        })
    }
}

pub(crate) struct Cell {
    pub(crate) net: Net,
    pub(crate) pki: Pki,
    pub(crate) masters: Vec<Master>,
    pub(crate) workers: Vec<Worker>,
    switch: Space,
    folder: PathBuf,
}

/// A host with a keeper, and a pod on it.
pub(crate) struct Worker {
    pub(crate) space: Space,
    pub(crate) keeper: Keeper,
}

impl Cell {
    /// Three masters that answer, and a worker for each kind of keeper.
    pub(crate) fn new(net: Net, kinds: &[Kind]) -> anyhow::Result<Self> {
        let folder = PathBuf::from(format!("/run/c{}", net.cell));
        let pki = Pki::new(&folder)?;
        let switch = Space::new(&format!("c{}", net.cell))?;
        switch.ip("link add br0 type bridge forward_delay 0\nlink set br0 up\n")?;
        let mut cell = Self {
            net,
            pki,
            masters: Vec::new(),
            workers: Vec::new(),
            switch,
            folder,
        };
        for n in 1..=3 {
            cell.add_master(n)?;
        }
        cell.tell_endpoints(&[1, 2, 3])?;
        for (n, kind) in (1..).zip(kinds) {
            cell.add_worker(n, *kind)?;
        }
        Ok(cell)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// One more that answers.
    pub(crate) fn add_master(&mut self, n: u8) -> anyhow::Result<()> {
        let address = self.net.master(n);
        let space = self.plug(&format!("m{n}"), address.ip())?;
        let folder = self.folder.join(format!("m{n}"));
        fs::create_dir_all(&folder)?;
        self.pki
            .server(&folder, &[address.ip(), self.net.service().ip()])?;
        let mut master = Master::new(n, address, space, self.switch.clone(), &folder);
        master.start()?;
        self.masters.push(master);
        Ok(())
    }

    /// What the cluster says its apiservers are.
    pub(crate) fn tell_endpoints(&self, masters: &[u8]) -> anyhow::Result<()> {
        let lines: String = masters
            .iter()
            .map(|n| format!("{}\n", self.net.master(*n).ip()))
            .collect();
        crate::master::replace(&self.folder.join(ENDPOINTS), &lines)
    }

    pub(crate) fn master(&mut self, n: u8) -> &mut Master {
        &mut self.masters[usize::from(n) - 1]
    }

    pub(crate) fn ours(&mut self) -> &mut Worker {
        &mut self.workers[0]
    }

    /// One more worker.
    pub(crate) fn add(&mut self, kind: Kind) -> anyhow::Result<()> {
        let n = u8::try_from(self.workers.len() + 1)?;
        self.add_worker(n, kind)
    }

    fn add_worker(&mut self, n: u8, kind: Kind) -> anyhow::Result<()> {
        let address = self.net.worker(n);
        let space = self.plug(&format!("w{n}"), address)?;
        let masters: Vec<_> = self.masters.iter().map(|master| master.address).collect();
        let keeper = Keeper::new(
            kind,
            space.clone(),
            self.net,
            address,
            masters,
            &self.folder,
        )?;
        self.workers.push(Worker { space, keeper });
        Ok(())
    }

    /// A pod on worker `n`, behind the masquerade that network plugins make for what leaves their range.
    pub(crate) fn add_pod(&self, n: u8) -> anyhow::Result<Space> {
        let worker = &self.workers[usize::from(n) - 1].space;
        let [near, far] = self.net.pod(n);
        let pod = Space::new(&format!("p{n}"))?;
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

    /// A host on the bridge.
    fn plug(&self, name: &str, address: IpAddr) -> anyhow::Result<Space> {
        let space = Space::new(name)?;
        self.switch.ip(&format!(
            "link add {name} type veth peer name eth0 netns {}\nlink set {name} master br0\nlink set {name} up\n",
            space.path()
        ))?;
        let prefix = self.net.prefix();
        space.ip(&format!(
            "addr add {address}/{prefix} dev eth0\nlink set eth0 up\n"
        ))?;
        Ok(space)
    }

    /// What a bad cable does, on the way from each master and on the way to it.
    pub(crate) fn spoil_cables(&self) -> anyhow::Result<()> {
        for master in &self.masters {
            master
                .space
                .call("tc qdisc add dev eth0 root netem delay 50ms 50ms loss 1%")?;
            let n = master.n;
            self.switch
                .call(&format!("tc qdisc add dev m{n} root netem loss 1%"))?;
        }
        Ok(())
    }
}
