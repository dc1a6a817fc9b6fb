//! What must be true of a machine's files after a power cut, whenever it came.
//!
//! A file of firstboot is absent, as it was, or complete. What the machine has reported, or relies
//! on by a marker, is on the disk. The document can be read once anything was changed, and the seed
//! loses its secrets only after that.

mod owner;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use firstboot::host;
use firstboot::source::Seed;
use firstboot::system::files::Root;
use firstboot::trust::record::{COPY, PATH, Phase, Record};
use userdata::contract::RECEIPT_FILE;
use userdata::signature::SCRUBBED_MARK;

use self::owner::{HOST_KEYS, MARKERS, OWN, Writer, is_temporary};
use super::ext4::{Node, Tree};
use super::recording::Event;

const APPLIED: &str = "/var/lib/firstlight/applied.json";
const HOSTS: &str = "/etc/hosts";
/// A machine as its whole log leaves it, against which its cuts are judged.
#[derive(Debug)]
pub struct Known {
    role: String,
    user_data: Vec<u8>,
    /// Paths of the files of the document.
    document: BTreeSet<String>,
    end: Tree,
}

/// What a cut has left.
#[derive(Debug)]
pub struct Left<'a> {
    /// `None`: no state partition yet.
    pub tree: Option<&'a Tree>,
    /// Names of etcd's write-ahead logs.
    pub wal: &'a [String],
    /// The files of the seed partition, or why they cannot be read.
    pub seed: std::result::Result<&'a HashMap<String, Vec<u8>>, String>,
    /// What the machine had reported before the cut.
    pub reported: &'a BTreeSet<Event>,
    /// An empty folder.
    pub scratch: &'a Path,
}

impl Known {
    /// `seed` has the files of the seed before the first boot.
    pub fn new(role: &str, seed: &HashMap<String, Vec<u8>>, end: Tree) -> Result<Self> {
        let file = |name: &str| seed.get(name).cloned();
        let user_data = file("user-data").context("the seed has no `user-data`")?;
        let files = Seed {
            origin: "seed".to_owned(),
            user_data: user_data.clone(),
            meta_data: file("meta-data").unwrap_or_default(),
            network_config: file("network-config"),
            vendor_data: file("vendor-data"),
        };
        let (host, _) = host::understand(&files)?;
        let mut known = Self {
            role: role.to_owned(),
            user_data,
            document: BTreeSet::new(),
            end,
        };
        for file in host.files {
            let found = known.end.get(&file.path).map(Node::bytes);
            anyhow::ensure!(
                found == Some(file.content.expose().as_slice()),
                "`{}` of a Ready machine is not as its document has it",
                file.path
            );
            known.document.insert(file.path);
        }
        anyhow::ensure!(!known.document.is_empty(), "the document has no files");
        Ok(known)
    }

    /// The names of judged files, for people.
    pub fn judged(&self) -> impl Iterator<Item = &str> {
        let paths = self.end.keys().map(String::as_str);
        paths.filter(|path| self.writer(path) != Writer::Other)
    }

    /// Everything that a cut has broken.
    pub fn judge(&self, left: &Left<'_>) -> Result<Vec<String>> {
        let mut lost = Vec::new();
        let empty = Tree::new();
        let tree = left.tree.unwrap_or(&empty);
        let record = self.judge_record(left, tree, &mut lost)?;
        self.judge_files(tree, &mut lost);
        self.judge_markers(tree, left, &mut lost);
        self.judge_logs(tree, &mut lost);
        for event in left.reported {
            match event {
                Event::Done(step) => {
                    for path in self.files_of(step) {
                        self.must_be_whole(
                            tree,
                            path,
                            &format!("step `{step}` was reported done"),
                            &mut lost,
                        );
                    }
                }
                Event::Ready => {
                    if record != Some(Phase::Applied) {
                        lost.push("Ready was reported, and the record is not applied".to_owned());
                    }
                    self.must_be_whole(tree, "/etc/machine-id", "Ready was reported", &mut lost);
                }
                Event::Started(_) if record.is_none() => {
                    lost.push("a step has begun, and there is no record".to_owned());
                }
                Event::Started(_) | Event::DocumentFound => {}
            }
        }
        self.judge_seed(left, tree, record, &mut lost);
        lost.sort();
        lost.dedup();
        Ok(lost)
    }

    /// Whether kubeadm's files are not those of the end: the next boot must write them again.
    pub fn is_torn(&self, tree: &Tree) -> bool {
        tree.iter().any(|(path, node)| {
            self.writer(path) == Writer::Kubeadm
                && self.end.get(path).is_some_and(|end| end != node)
        })
    }

    fn judge_record(
        &self,
        left: &Left<'_>,
        tree: &Tree,
        lost: &mut Vec<String>,
    ) -> Result<Option<Phase>> {
        for path in [PATH, COPY] {
            if let Err(error) = record(tree, &[path], left.scratch)? {
                lost.push(format!("`{path}` alone: {error}"));
            }
        }
        let phase = match record(tree, &[PATH, COPY], left.scratch)? {
            Ok(phase) => phase,
            Err(error) => {
                lost.push(error);
                None
            }
        };
        let changed = tree.keys().find(|path| {
            !is_temporary(path)
                && ![PATH, COPY].contains(&path.as_str())
                && matches!(self.writer(path), Writer::Firstboot | Writer::Kubeadm)
        });
        if let (None, Some(path)) = (phase, changed) {
            lost.push(format!("`{path}` was written, and there is no record"));
        }
        Ok(phase)
    }

    /// Each file is of the end, or something says that it is unfinished.
    fn judge_files(&self, tree: &Tree, lost: &mut Vec<String>) {
        for (path, node) in tree {
            if is_temporary(path) || self.end.get(path) == Some(node) {
                continue;
            }
            let known = self.end.contains_key(path);
            match self.writer(path) {
                Writer::Firstboot if known => lost.push(format!(
                    "`{path}` is neither absent nor complete: {} bytes",
                    node.bytes().len()
                )),
                Writer::Firstboot => lost.push(format!("`{path}` is no file of the end")),
                Writer::Changing => {
                    if let Some(why) = form(path, node.bytes()) {
                        lost.push(format!("`{path}` {why}"));
                    }
                }
                // The marker of its step requires it to be whole.
                Writer::Kubeadm => {}
                // sshd's unit requires them to be whole.
                Writer::Keygen => {}
                Writer::Other => {}
            }
        }
    }

    fn judge_markers(&self, tree: &Tree, left: &Left<'_>, lost: &mut Vec<String>) {
        for (name, files) in MARKERS {
            let marker = format!("{OWN}{name}");
            if !tree.contains_key(&marker) {
                continue;
            }
            for path in self.marked(files) {
                self.must_be_whole(tree, path, &format!("`{marker}` is set"), lost);
            }
            if ["apiserver-answered", "etcd-votes"].contains(&name)
                && !left.wal.iter().any(|name| name.ends_with(".wal"))
            {
                lost.push(format!("`{marker}` is set, and etcd has no log"));
            }
        }
        let enabled = |path: &&String| path.ends_with(".wants/ssh.service");
        if let Some(link) = tree.keys().find(enabled) {
            for path in self.end.keys().filter(|path| path.starts_with(HOST_KEYS)) {
                self.must_be_whole(tree, path, &format!("`{link}` is there"), lost);
            }
        }
    }

    /// What the receipt and the record of applied files name is whole.
    fn judge_logs(&self, tree: &Tree, lost: &mut Vec<String>) {
        let json = |path| {
            let bytes = tree.get(path).map(Node::bytes)?;
            serde_json::from_slice::<serde_json::Value>(bytes).ok()
        };
        let receipt = json(RECEIPT_FILE).unwrap_or_default();
        for entry in receipt["steps"].as_array().into_iter().flatten() {
            let step = entry["step"].as_str().unwrap_or_default();
            if entry["outcome"] != "done" {
                continue;
            }
            // kubeadm does not sync; its files are whole once a marker is set.
            let own = self.files_of(step).into_iter();
            for path in own.filter(|path| self.writer(path) == Writer::Firstboot) {
                self.must_be_whole(tree, path, &format!("the receipt has step `{step}`"), lost);
            }
        }
        let applied = json(APPLIED).unwrap_or_default();
        for path in applied
            .as_object()
            .into_iter()
            .flatten()
            .map(|(path, _)| path)
        {
            if self.end.contains_key(path) {
                self.must_be_whole(tree, path, &format!("`{APPLIED}` names it"), lost);
            }
        }
    }

    fn must_be_whole(&self, tree: &Tree, path: &str, because: &str, lost: &mut Vec<String>) {
        match (tree.get(path), self.end.get(path)) {
            (_, None) => lost.push(format!("{because}, and `{path}` is not there at the end")),
            (None, _) => lost.push(format!("{because}, and `{path}` is missing")),
            (Some(_), _) if self.writer(path) == Writer::Changing => {}
            (Some(found), Some(end)) if found != end => lost.push(format!(
                "{because}, and `{path}` is not complete: {} of {} bytes, or others",
                found.bytes().len(),
                end.bytes().len()
            )),
            _ => {}
        }
    }

    /// The seed is as it was, or this machine keeps what it was for.
    fn judge_seed(
        &self,
        left: &Left<'_>,
        tree: &Tree,
        record: Option<Phase>,
        lost: &mut Vec<String>,
    ) {
        let files = match &left.seed {
            Ok(files) => files,
            Err(error) => {
                lost.push(format!("the seed cannot be read: {error}"));
                return;
            }
        };
        let Some(found) = files.get("user-data") else {
            lost.push("the seed has lost its `user-data`".to_owned());
            return;
        };
        if *found == self.user_data {
            return;
        }
        if record != Some(Phase::Applied) {
            lost.push("the seed has lost its secrets, and the record is not applied".to_owned());
        }
        for path in &self.document {
            self.must_be_whole(tree, path, "the seed has lost its secrets", lost);
        }
        if !found.starts_with(SCRUBBED_MARK.as_bytes()) {
            lost.push("the seed is changed and has no mark".to_owned());
        }
    }
}

/// Why a file that changes is not of the form that all its versions have.
fn form(path: &str, bytes: &[u8]) -> Option<String> {
    match path {
        RECEIPT_FILE | APPLIED => serde_json::from_slice::<serde_json::Value>(bytes)
            .err()
            .map(|error| format!("is not JSON: {error}; {} bytes", bytes.len())),
        HOSTS => {
            let text = String::from_utf8_lossy(bytes);
            let whole = text.ends_with('\n')
                && text.contains("# firstboot writes the lines")
                && text.contains("# End of firstboot's lines");
            (!whole).then(|| format!("is not complete: {} bytes", bytes.len()))
        }
        // Records are judged by firstboot itself.
        _ => None,
    }
}

/// The record as firstboot reads it when only `paths` are there.
fn record(
    tree: &Tree,
    paths: &[&str],
    scratch: &Path,
) -> Result<std::result::Result<Option<Phase>, String>> {
    let dir = tempfile::tempdir_in(scratch)?;
    let root = Root::new(dir.path());
    for path in paths {
        if let Some(node) = tree.get(*path) {
            let to = root.join(path);
            fs::create_dir_all(to.parent().unwrap_or(&to))?;
            fs::write(to, node.bytes())?;
        }
    }
    let found = Record::open(&root);
    Ok(found
        .map(|record| record.map(|record| record.phase))
        .map_err(|error| format!("{error:#}")))
}
