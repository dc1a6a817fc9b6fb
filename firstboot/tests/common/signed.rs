//! A machine as a directory, with folders as disks, and signed documents.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use firstboot::boot;
use firstboot::report::Reporter;
use firstboot::source::directory::Directory;
use firstboot::source::{self, Source, SourceResult};
use firstboot::system::files::Root;
use firstboot::system::machine::Identity;
use firstboot::trust::record::{Phase, Record};
use firstboot::trust::{self, Found};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tempfile::TempDir;
use userdata::signature::{self, Claims, Files, Kind};

use super::{image_root, tree};

/// The guest's disk of the audit.
pub(crate) const TAKEOVER: &str = "#cloud-config
hostname: vm-guest-7
users:
- { name: guest, sudo: \"ALL=(ALL) NOPASSWD:ALL\", ssh_authorized_keys: [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGuest guest@vm\"] }
write_files:
- { path: /etc/kubernetes/manifests/pwn.yaml, content: \"apiVersion: v1\" }
runcmd: [ \"cp /bin/sh /run/x\" ]
";

pub(crate) fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

pub(crate) fn claims(host: &str, generation: u64) -> Claims {
    Claims {
        cluster: "prod".to_owned(),
        host: host.to_owned(),
        generation,
    }
}

/// `body` as `user-data` with a signature.
pub(crate) fn signed(kind: Kind, key: &Ed25519KeyPair, claims: &Claims, body: &str) -> String {
    let digest = signature::digest(&Files {
        user_data: body.as_bytes(),
        meta_data: b"",
        network_config: None,
        vendor_data: None,
    });
    let public = key.public_key().as_ref().try_into().unwrap();
    let statement = signature::statement(kind, claims, &public, &digest);
    let signature = key.sign(statement.as_bytes()).as_ref().try_into().unwrap();
    body.to_owned() + &signature::line(claims, &public, &signature)
}

pub(crate) fn document(host: &str, generation: u64, motd: &str) -> String {
    let body = format!(
        "#cloud-config\nhostname: {host}\nwrite_files:\n- {{path: /etc/motd, content: {motd}}}\n"
    );
    signed(Kind::Document, &key(1), &claims(host, generation), &body)
}

/// A machine, and the disks that are attached to it.
pub(crate) struct Machine {
    pub(crate) root: TempDir,
    pub(crate) disks: Vec<TempDir>,
}

/// A source whose every folder is a disk of its own.
struct Disks(Vec<PathBuf>);

impl Source for Disks {
    fn name(&self) -> &'static str {
        "disks"
    }

    fn read(&self, machine: &Identity) -> Result<SourceResult> {
        self.read_each(machine)
            .pop()
            .unwrap_or(Ok(SourceResult::NotFound("no disk".to_owned())))
    }

    fn read_each(&self, machine: &Identity) -> Vec<Result<SourceResult>> {
        let disks = self.0.iter().cloned();
        disks.map(|disk| Directory(disk).read(machine)).collect()
    }
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            root: image_root(),
            disks: Vec::new(),
        }
    }

    pub(crate) fn root(&self) -> Root {
        Root::new(self.root.path())
    }

    /// Detaches all disks and attaches one for each text.
    pub(crate) fn attach(&mut self, texts: &[&str]) {
        self.disks = texts
            .iter()
            .map(|text| {
                let disk = TempDir::new().unwrap();
                fs::write(disk.path().join("user-data"), text).unwrap();
                disk
            })
            .collect();
    }

    pub(crate) fn sources(&self) -> Vec<Box<dyn Source>> {
        let folders = self.disks.iter().map(|disk| disk.path().to_owned());
        vec![Box::new(Disks(folders.collect()))]
    }

    pub(crate) fn boot(&self) -> Result<()> {
        let root = self.root();
        boot::run(&root, &self.sources(), false, &mut Reporter::silent(&root))
    }

    pub(crate) fn motd(&self) -> String {
        fs::read_to_string(self.root.path().join("etc/motd")).unwrap_or_default()
    }

    pub(crate) fn record(&self) -> Record {
        Record::open(&self.root()).unwrap().unwrap()
    }

    pub(crate) fn found(&self) -> Found {
        let root = self.root();
        let machine = Identity::read(&root).unwrap();
        let attempts = source::find_each(&self.sources(), &machine);
        trust::compare(&root, &self.record(), attempts)
    }

    /// The only reason for which a document is refused.
    pub(crate) fn refusal(&self) -> String {
        let mut refused = self.found().refused;
        assert_eq!(refused.len(), 1, "{refused:?}");
        refused.remove(0).1
    }

    pub(crate) fn files(&self) -> BTreeMap<PathBuf, (u32, u64, Vec<u8>)> {
        tree(self.root.path())
    }
}

/// A machine with generation 5 of `m0`.
pub(crate) fn installed() -> Machine {
    let mut machine = Machine::new();
    machine.attach(&[&document("m0", 5, "five")]);
    machine.boot().unwrap();
    assert_eq!(machine.motd(), "five");
    assert_eq!(machine.record().phase, Phase::Applied);
    machine
}
