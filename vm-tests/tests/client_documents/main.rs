//! The documents of cloud-init's clients, each delivered as its client does, to a machine that
//! boots the node image.
//!
//! `fixtures/clients/README.md` says which version of which client emits them. The table in
//! `docs/userdata.md` is what these tests show.

mod disks;
mod servers;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firstboot::journal::{DOCUMENT_FOUND, field};
use vm_tests::cluster::wait_ready;
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::client_tools::{ClientTools, Iso};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::disk;
use vm_tests::machine::journal::RecordMatch;
use vm_tests::machine::qemu::{Boot, DiskFormat, Machine};
use vm_tests::machine::vm::Vm;
use vm_tests::net::switch::Switch;

/// In `network-config` of the fixtures.
const MAC: &str = "52:54:00:00:07:10";
/// What the machine says of itself.
const LOOK: &str = include_str!("look.sh");
/// firstboot's own, whatever the document.
const MOST_MEMORY_KIB: u64 = 16 << 10;

/// A machine with the node image and nothing else.
struct Client {
    name: &'static str,
    host: Host,
    run_dir: RunDir,
    machine: Machine,
}

impl Client {
    fn new(name: &'static str) -> Result<Option<Self>> {
        let Some(host) = Host::or_skip()? else {
            return Ok(None);
        };
        let output = output()?;
        let run_dir = RunDir::new(&format!("client-{name}"))?;
        let image = output.image();
        let size = Some(12 << 30);
        let node = disk::overlay_of_size(&host, &run_dir, "node", &image, DiskFormat::Raw, size)?;
        let machine = Machine {
            cpus: 1,
            memory_mib: 1536,
            disks: vec![node],
            time_scale: host.time_scale(1),
            ..Machine::new(name, Boot::Uefi)
        };
        Ok(Some(Self {
            name,
            host,
            run_dir,
            machine,
        }))
    }

    fn fixtures(&self) -> PathBuf {
        fixtures().join(self.name)
    }

    fn iso(&self, label: &str, names: Iso) -> Result<PathBuf> {
        let path = self.run_dir.folder().join("medium.iso");
        let tools = ClientTools::ensure(&self.host)?;
        tools.iso(&self.fixtures(), label, names, &path)?;
        Ok(path)
    }

    /// Boots with a cable into a network without a DHCP server.
    fn boot(mut self, expected: Expected) -> Result<()> {
        let switch = Switch::start(&self.run_dir)?;
        let port = switch.port()?;
        self.machine.nics = vec![port.nic(MAC)];
        self.start(expected)
    }

    /// Boots, waits until the document is applied, and judges what the machine shows.
    fn start(self, expected: Expected) -> Result<()> {
        let vm = Vm::start(&self.host, &self.run_dir, &self.machine)?;
        let ready = wait_ready(&vm)?;
        let found = RecordMatch::id(DOCUMENT_FOUND);
        let found = vm.wait_for(&found, &[], Duration::from_secs(1))?;
        let source = found.get(field::SOURCE).unwrap_or_default().to_owned();
        let figure = |name| ready.get(name).unwrap_or("?").to_owned();
        let memory = figure(field::PEAK_MEMORY_KIB);
        println!(
            "{}: ready {:.0} s after power-on; of firstboot {} ms of processor time, {memory} KiB",
            self.name,
            vm.age().as_secs_f64(),
            figure(field::OWN_MS),
        );
        let seen = vm.shell(&format!("{{ {LOOK}{}; }} 2>&1", expected.look))?;
        fs::write(self.run_dir.folder().join("seen"), &seen)?;
        ensure!(source == expected.source, "the document is from {source}");
        ensure!(memory.parse::<u64>()? <= MOST_MEMORY_KIB, "{memory} KiB");
        for text in expected.shows {
            ensure!(seen.contains(text), "no `{text}` in:\n{seen}");
        }
        for text in expected.lacks {
            ensure!(!seen.contains(text), "`{text}` in:\n{seen}");
        }
        drop(vm);
        self.run_dir.passed();
        Ok(())
    }
}

/// What shows that the document of a client is taken as the client means it.
struct Expected<'a> {
    source: &'a str,
    /// A command besides [`LOOK`].
    look: &'a str,
    shows: &'a [&'a str],
    lacks: &'a [&'a str],
}

/// The node image, which all tests share.
fn output() -> Result<&'static Output> {
    static OUTPUT: OnceLock<Output> = OnceLock::new();
    if OUTPUT.get().is_none() {
        let made = Output::make(&Programs::build()?, &topology("one"))?;
        // Tests run one after another.
        let _ = OUTPUT.set(made);
    }
    OUTPUT.get().context("the node image")
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/clients")
}

fn read(path: &str) -> Result<Vec<u8>> {
    let path = fixtures().join(path);
    fs::read(&path).with_context(|| format!("reading `{}`", path.display()))
}

/// What a machine of OpenStack says, however it got its document.
const OPENSTACK: &[&str] = &[
    "name nova-node nova-node",
    " ops@nova",
    "192.168.7.20/24",
    "default via 192.168.7.1",
    "zone /usr/share/zoneinfo/Europe/Berlin",
    "configured",
    "\"result\": \"applied\"",
];
