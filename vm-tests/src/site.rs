//! A test's whole site: host, image, network, and the machines that are on.
//!
//! What every test of a cluster does stands here once; what a cluster must be is said in `whole.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use firstboot::journal::READY;

use crate::artifacts::{Output, Programs, topology};
use crate::cluster::{Cluster, Member, READY_DEADLINE, never_ready};
use crate::formed;
use crate::host::Host;
use crate::journal::{Record, Want};
use crate::kube;
use crate::run::Run;
use crate::vm::Vm;

#[derive(Debug)]
pub struct Site {
    /// By the host's name. First, so that machines are off before their network and folder go.
    pub on: BTreeMap<String, Vm>,
    pub cluster: Cluster,
    pub output: Output,
    pub host: Host,
    pub run: Run,
}

impl Site {
    /// The machines of a topology beside the tests, all off; `None` after printing why there can be none here.
    /// Whatever they will send is recorded.
    pub fn new(test: &str, topology_name: &str) -> Result<Option<Self>> {
        let Some(host) = Host::or_skip()? else {
            return Ok(None);
        };
        let output = Output::make(&Programs::build()?, &topology(topology_name))?;
        Self::with(host, test, output).map(Some)
    }

    /// As `new`, with the cluster formed and running; it was formed once and is restored from then on.
    pub fn formed(test: &str, topology_name: &str) -> Result<Option<Self>> {
        let Some(site) = Self::new(test, topology_name)? else {
            return Ok(None);
        };
        formed::restore(site).map(Some)
    }

    /// The machines of an image that was made already, all off, on a host that can run them.
    pub fn prepare(test: &str, output: &Output) -> Result<Self> {
        Self::with(Host::ready()?, test, output.clone())
    }

    pub(crate) fn with(host: Host, test: &str, output: Output) -> Result<Self> {
        let run = Run::new(test)?;
        let cluster = Cluster::new(&host, &run, &output)?;
        cluster.switch.record(&run.folder().join("network.pcap"))?;
        Ok(Self {
            on: BTreeMap::new(),
            cluster,
            output,
            host,
            run,
        })
    }

    /// Switches a machine on that is off.
    pub fn start(&mut self, name: &str) -> Result<&Vm> {
        let vm = self.cluster.member(name)?.start(&self.host, &self.run)?;
        self.on.insert(name.to_string(), vm);
        self.vm(name)
    }

    /// Switches all machines on that are off, in the order of the topology.
    pub fn start_all(&mut self) -> Result<()> {
        let names: Vec<_> = self
            .cluster
            .members
            .iter()
            .map(|member| member.name.clone())
            .filter(|name| !self.on.contains_key(name))
            .collect();
        names.iter().try_for_each(|name| self.start(name).map(drop))
    }

    /// Pulls a machine's plug.
    pub fn cut(&mut self, name: &str) -> Result<()> {
        let vm = self
            .on
            .remove(name)
            .with_context(|| format!("`{name}` is not on"))?;
        vm.power_cut()
    }

    /// Shuts a machine down in order and switches it on again.
    pub fn reboot(&mut self, name: &str) -> Result<()> {
        let vm = self
            .on
            .remove(name)
            .with_context(|| format!("`{name}` is not on"))?;
        vm.power_off()?;
        drop(vm);
        self.start(name).map(drop)
    }

    /// Gives every machine the document of a changed topology, by the same authorities, for its next boot.
    pub fn change_topology(&mut self, topology_name: &str) -> Result<()> {
        let folder = self.run.folder().join(topology_name);
        let programs = Programs::build()?;
        let changed = self
            .output
            .changed(&programs, &topology(topology_name), &folder)?;
        self.cluster.take_documents(&changed)
    }

    /// Gives a machine that is off a new disk with the image and nothing else.
    pub fn wipe(&mut self, name: &str) -> Result<()> {
        let member = self.cluster.member_mut(name)?;
        member.wipe(&self.host, &self.run, &self.output)
    }

    pub fn vm(&self, name: &str) -> Result<&Vm> {
        self.on
            .get(name)
            .with_context(|| format!("`{name}` is not on"))
    }

    pub fn member(&self, name: &str) -> Result<&Member> {
        self.cluster.member(name)
    }

    /// Waits until every machine that is on has become ready; the first that cannot ends the wait at once.
    pub fn wait_ready(&self) -> Result<BTreeMap<String, Record>> {
        self.wait_each(&Want::id(READY), READY_DEADLINE)
    }

    /// Waits until every machine that is on has said `want`; `guest` is what machines with KVM would need at most.
    pub fn wait_each(
        &self,
        want: &Want<'static>,
        guest: Duration,
    ) -> Result<BTreeMap<String, Record>> {
        let (said, heard) = mpsc::channel();
        for (name, vm) in &self.on {
            let (journal, deadline) = (vm.journal()?.clone(), vm.wall(guest));
            let (said, name, want) = (said.clone(), name.clone(), want.clone());
            // Not joined: one that still waits ends with its machine.
            std::thread::Builder::new()
                .name(format!("wait-{name}"))
                .spawn(move || {
                    let result = journal.wait_for_or(&want, &never_ready(), deadline);
                    let _ = said.send((name, result));
                })?;
        }
        drop(said);
        let mut records = BTreeMap::new();
        for (name, result) in heard {
            let record = self.vm(&name)?.evidence(result)?;
            records.insert(name, record);
        }
        Ok(records)
    }

    /// Asks a master's apiserver as the administrator, with the package's kubectl.
    pub fn kubectl(&self, master: &str, arguments: &[&str]) -> Result<String> {
        let member = self.member(master)?;
        kube::ask(
            &self.host,
            &self.cluster,
            member,
            &self.output,
            self.run.folder(),
            arguments,
        )
        .with_context(|| format!("asking the apiserver of {master}"))
    }

    /// What a master's apiserver has at `path`, by one request.
    pub fn get(&self, master: &str, path: &str) -> Result<serde_json::Value> {
        let text = self.kubectl(master, &["get", &format!("--raw={path}")])?;
        serde_json::from_str(&text).with_context(|| format!("reading `{text}`"))
    }

    /// Applies a manifest, which stays as evidence under `name`.
    pub fn apply(&self, master: &str, name: &str, manifest: &serde_json::Value) -> Result<()> {
        let path: PathBuf = self.run.folder().join(format!("{name}.json"));
        std::fs::write(&path, serde_json::to_vec_pretty(manifest)?)?;
        let path = path.display().to_string();
        // Without its schema: that is two megabytes to make, in the guest.
        self.kubectl(master, &["apply", "--validate=false", "-f", &path])?;
        Ok(())
    }

    /// The one image that every package holds for a pod without anything in it.
    pub fn pause_image(&self, on: &str) -> Result<String> {
        let text = self.vm(on)?.ok("cat /usr/share/firstlight/image.json")?;
        let image: serde_json::Value = serde_json::from_str(&text)?;
        let name = image["pause_image"].as_str();
        name.map(str::to_string)
            .with_context(|| format!("no pause image in `{text}`"))
    }

    /// Guest seconds per second of the wall clock, the same for all machines.
    pub fn pace(&self) -> f64 {
        self.cluster.first().machine.pace
    }

    /// The names of the masters that are on, in the order of the topology.
    pub fn masters_on(&self) -> Vec<String> {
        self.cluster
            .masters()
            .map(|master| master.name.clone())
            .filter(|name| self.on.contains_key(name))
            .collect()
    }

    /// Switches everything off; the claim holds.
    pub fn passed(self) {
        drop(self.on);
        self.run.passed();
    }
}
