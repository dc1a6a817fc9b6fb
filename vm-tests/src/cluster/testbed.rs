//! Everything that a test of a cluster needs: host, image, network and running machines.
//!
//! `invariants.rs` adds the assertions, and `snapshot.rs` starts from a saved cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use firstboot::journal::READY;

use crate::cluster::{Cluster, Member, READY_DEADLINE, kubectl, never_ready};
use crate::host::Host;
use crate::host::artifacts::{Output, Programs, topology};
use crate::host::run_dir::RunDir;
use crate::machine::journal::{Record, RecordMatch};
use crate::machine::vm::Vm;

#[derive(Debug)]
pub struct Testbed {
    /// Running machines by host name. Fields are dropped in order: machines end before their
    /// network and folder.
    pub running: BTreeMap<String, Vm>,
    pub cluster: Cluster,
    pub output: Output,
    pub host: Host,
    pub run_dir: RunDir,
}

impl Testbed {
    /// The machines of a topology of `vm-tests/topologies/`, all off, with a capture of their
    /// network. Returns `None`, after it has printed the reason, if this host cannot run machines.
    pub fn new(test: &str, topology_name: &str) -> Result<Option<Self>> {
        let Some(host) = Host::or_skip()? else {
            return Ok(None);
        };
        let output = Output::make(&Programs::build()?, &topology(topology_name))?;
        Self::with(host, test, output).map(Some)
    }

    /// Like [`Testbed::new`], with the image and the authorities of another topology, whose `image`
    /// is the same: building one more takes over a minute.
    pub fn with_image_of(test: &str, topology_name: &str, image_of: &str) -> Result<Option<Self>> {
        let Some(host) = Host::or_skip()? else {
            return Ok(None);
        };
        let programs = Programs::build()?;
        let run_dir = RunDir::new(test)?;
        let output = Output::make(&programs, &topology(image_of))?.changed(
            &programs,
            &topology(topology_name),
            &run_dir.folder().join(topology_name),
        )?;
        Self::with_run_dir(host, run_dir, output).map(Some)
    }

    /// The machines of an existing image, all off.
    pub fn prepare(test: &str, output: &Output) -> Result<Self> {
        Self::with(Host::ready()?, test, output.clone())
    }

    pub(crate) fn with(host: Host, test: &str, output: Output) -> Result<Self> {
        Self::with_run_dir(host, RunDir::new(test)?, output)
    }

    fn with_run_dir(host: Host, run_dir: RunDir, output: Output) -> Result<Self> {
        let cluster = Cluster::new(&host, &run_dir, &output)?;
        if let Some(warning) = cluster.memory_warning() {
            eprintln!("{warning}");
        }
        cluster
            .switch
            .record(&run_dir.folder().join("network.pcap"))?;
        Ok(Self {
            running: BTreeMap::new(),
            cluster,
            output,
            host,
            run_dir,
        })
    }

    /// Starts a machine that is off.
    pub fn start(&mut self, name: &str) -> Result<&Vm> {
        let vm = self
            .cluster
            .member(name)?
            .start(&self.host, &self.run_dir)?;
        self.running.insert(name.to_string(), vm);
        self.vm(name)
    }

    /// Starts all machines that are off, in the order of the topology.
    pub fn start_all(&mut self) -> Result<()> {
        let names: Vec<_> = self
            .cluster
            .members
            .iter()
            .map(|member| member.name.clone())
            .filter(|name| !self.running.contains_key(name))
            .collect();
        names.iter().try_for_each(|name| self.start(name).map(drop))
    }

    /// Cuts the power of a machine.
    pub fn power_cut(&mut self, name: &str) -> Result<()> {
        let vm = self
            .running
            .remove(name)
            .with_context(|| format!("`{name}` is off"))?;
        vm.power_cut()
    }

    /// Shuts a machine down cleanly and starts it again.
    pub fn reboot(&mut self, name: &str) -> Result<()> {
        let vm = self
            .running
            .remove(name)
            .with_context(|| format!("`{name}` is off"))?;
        vm.power_off()?;
        drop(vm);
        self.start(name).map(drop)
    }

    /// Gives every machine the document of a changed topology for its next boot. The certificate
    /// authorities stay the same.
    pub fn change_topology(&mut self, topology_name: &str) -> Result<()> {
        let folder = self.run_dir.folder().join(topology_name);
        let programs = Programs::build()?;
        let changed = self
            .output
            .changed(&programs, &topology(topology_name), &folder)?;
        self.cluster.take_documents(&changed)
    }

    /// The next kubectl reads the administrator's credentials from the output folder again.
    pub fn forget_kubeconfigs(&self) -> Result<()> {
        let mut members = self.cluster.members.iter();
        members.try_for_each(|member| kubectl::forget_kubeconfig(member, self.run_dir.folder()))
    }

    /// Gives a machine that is off a new disk, which contains only the image.
    pub fn wipe(&mut self, name: &str) -> Result<()> {
        let member = self.cluster.member_mut(name)?;
        member.wipe(&self.host, &self.run_dir, &self.output)
    }

    pub fn vm(&self, name: &str) -> Result<&Vm> {
        self.running
            .get(name)
            .with_context(|| format!("`{name}` is off"))
    }

    pub fn member(&self, name: &str) -> Result<&Member> {
        self.cluster.member(name)
    }

    /// Waits until every running machine is ready. The first failure ends the wait.
    pub fn wait_ready(&self) -> Result<BTreeMap<String, Record>> {
        self.wait_each(&RecordMatch::id(READY), READY_DEADLINE)
    }

    /// As [`Testbed::wait_ready`], and prints how long each machine took.
    pub fn wait_ready_and_print(&self) -> Result<()> {
        for (name, ready) in self.wait_ready()? {
            let boot = ready.since_boot().unwrap_or_default();
            println!(
                "{name}: ready {:.0} s after power-on by the guest's clock",
                boot.as_secs_f64()
            );
        }
        Ok(())
    }

    /// Waits until every running machine has logged a record that matches `wanted`. `guest` is the
    /// deadline on machines with KVM.
    pub fn wait_each(
        &self,
        wanted: &RecordMatch<'static>,
        guest: Duration,
    ) -> Result<BTreeMap<String, Record>> {
        let (sender, receiver) = mpsc::channel();
        for (name, vm) in &self.running {
            let (journal, deadline) = (vm.journal()?.clone(), vm.wall(guest));
            let (sender, name, wanted) = (sender.clone(), name.clone(), wanted.clone());
            // The thread is not joined: it ends with its machine at the latest.
            std::thread::Builder::new()
                .name(format!("wait-{name}"))
                .spawn(move || {
                    let result = journal.wait_for_unless(&wanted, &never_ready(), deadline);
                    let _ = sender.send((name, result));
                })?;
        }
        drop(sender);
        let mut records = BTreeMap::new();
        for (name, result) in receiver {
            let record = self.vm(&name)?.evidence(result)?;
            records.insert(name, record);
        }
        Ok(records)
    }

    /// Runs the package's kubectl as administrator against the apiserver of `master`.
    pub fn kubectl(&self, master: &str, arguments: &[&str]) -> Result<String> {
        kubectl::run(
            &self.host,
            &self.cluster,
            self.member(master)?,
            &self.output,
            self.run_dir.folder(),
            arguments,
        )
        .with_context(|| format!("running kubectl against {master}"))
    }

    /// A kubeconfig of the administrator for programs of the host, which lead to the apiserver of
    /// `master`.
    pub fn kubeconfig(&self, master: &str) -> Result<PathBuf> {
        let member = self.member(master)?;
        kubectl::kubeconfig(&self.cluster, member, &self.output, self.run_dir.folder())
    }

    /// The command of [`Testbed::kubectl`], for a test that does not wait for its end.
    pub fn kubectl_command(&self, master: &str) -> Result<Command> {
        let folder = self.run_dir.folder();
        kubectl::command(
            &self.host,
            &self.cluster,
            self.member(master)?,
            &self.output,
            folder,
        )
    }

    /// The object at `path` of the apiserver of `master`.
    pub fn get(&self, master: &str, path: &str) -> Result<serde_json::Value> {
        let text = self.kubectl(master, &["get", &format!("--raw={path}")])?;
        serde_json::from_str(&text).with_context(|| format!("reading `{text}`"))
    }

    /// Applies a manifest, and writes it to the file `name` as evidence.
    pub fn apply(&self, master: &str, name: &str, manifest: &serde_json::Value) -> Result<()> {
        let path: PathBuf = self.run_dir.folder().join(format!("{name}.json"));
        std::fs::write(&path, serde_json::to_vec_pretty(manifest)?)?;
        let path = path.display().to_string();
        // Validation would make the guest render its OpenAPI schema of two megabytes.
        self.kubectl(master, &["apply", "--validate=false", "-f", &path])?;
        Ok(())
    }

    /// The name of the pause image, which every package contains.
    pub fn pause_image(&self, on: &str) -> Result<String> {
        let text = self.vm(on)?.shell("cat /usr/share/firstlight/image.json")?;
        let image: serde_json::Value = serde_json::from_str(&text)?;
        let name = image["pause_image"].as_str();
        name.map(str::to_string)
            .with_context(|| format!("`{text}` names no pause image"))
    }

    /// Guest seconds per second of the wall clock; the same for all machines.
    pub fn time_scale(&self) -> f64 {
        self.cluster.first().machine.time_scale
    }

    /// The names of the running control-plane hosts, in the order of the topology.
    pub fn running_control_plane(&self) -> Vec<String> {
        self.cluster
            .control_plane()
            .map(|master| master.name.clone())
            .filter(|name| self.running.contains_key(name))
            .collect()
    }

    /// Ends all machines; the test has passed.
    pub fn passed(self) {
        drop(self.running);
        self.run_dir.passed();
    }
}
