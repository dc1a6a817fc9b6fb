//! From a topology to an output folder: the stages in order, and what each leaves.
//!
//! What can go wrong with the input goes wrong before the folder is touched. Documents are published before
//! the image is begun, since they take milliseconds and it takes minutes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use time::OffsetDateTime;
use yaml::{Diagnostic, Diagnostics};

use crate::documents::{Writer, admin_conf};
use crate::image::ImageReport;
use crate::manifest::{self, Manifest};
use crate::output::Folder;
use crate::package::Package;
use crate::pki::store::Pki;
use crate::plan::{ClusterPlan, HostPlan};
use crate::secret_scan::SecretIndex;
use crate::seed;
use crate::topology::check;
use crate::topology::value::Invalid;

const HOSTS: &str = "hosts";
const PKI: &str = "pki";
const ADMIN_CONF: &str = "admin.conf";
const SEED: &str = "seed.img";
const IMAGE: &str = "node.raw";
const QCOW2: &str = "node.qcow2";

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub topology: PathBuf,
    /// Over the topology's own.
    pub package: Option<PathBuf>,
    /// `./<cluster name>` when not given.
    pub output: Option<PathBuf>,
}

/// A topology that was read and found good.
#[derive(Debug)]
pub struct Input {
    pub plan: ClusterPlan,
    pub warnings: Vec<Diagnostic>,
    /// Of the topology's bytes.
    digest: String,
    /// Where the topology names its package: `cluster.yaml:4:10`.
    package_place: Option<String>,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub folder: PathBuf,
    pub hosts: usize,
    /// Whether any byte in the folder changed.
    pub changed: bool,
}

/// A topology that was read and found bad; the findings are all of them.
#[derive(Debug)]
pub struct Refused(pub Diagnostics);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refused {}

/// Reads and checks the topology. Writes nothing, and does not look for the package, which documents do not need.
pub fn read(request: &Request) -> Result<Input> {
    read_with(request, &|_| Ok(()))
}

/// [`read`], and a check that the package exists: a missing one is a finding at the topology's `package` key, or, if
/// `--package` names it, an error.
pub fn validate(request: &Request) -> Result<Input> {
    let Some(path) = &request.package else {
        return read_with(request, &|name| {
            fs::metadata(beside(request, name))
                .map(drop)
                .map_err(|error| match error.kind() {
                    ErrorKind::NotFound => Invalid::new(
                        format!("the package `{name}` does not exist"),
                        "write its path relative to this file, or remove the key for the default package",
                    ),
                    _ => Invalid::new(
                        format!("the package `{name}` cannot be read: {error}"),
                        "write the path of a readable package",
                    ),
                })
        });
    };
    let input = read(request)?;
    fs::metadata(path).with_context(|| format!("opening the package `{}`", path.display()))?;
    Ok(input)
}

fn read_with(request: &Request, package: &dyn Fn(&str) -> Result<(), Invalid>) -> Result<Input> {
    let path = &request.topology;
    let bytes =
        fs::read(path).with_context(|| format!("reading the topology `{}`", path.display()))?;
    let text = std::str::from_utf8(&bytes).with_context(|| {
        format!(
            "reading the topology `{}`: it is not text in UTF-8",
            path.display()
        )
    })?;
    let checked = check::read_with(&path.display().to_string(), text, package).map_err(Refused)?;
    let place = |(line, column)| format!("{}:{line}:{column}", path.display());
    Ok(Input {
        package_place: checked.package_place.map(place),
        plan: checked.plan,
        warnings: checked.warnings,
        digest: manifest::digest(&bytes),
    })
}

/// Where the package lies, if not embedded: as asked for, else as the topology says, beside the topology.
pub fn package(request: &Request, plan: &ClusterPlan) -> Option<PathBuf> {
    let named = || plan.package.as_ref().map(|name| beside(request, name));
    request.package.clone().or_else(named)
}

/// Relative paths in a topology start at its folder.
fn beside(request: &Request, name: &str) -> PathBuf {
    request
        .topology
        .parent()
        .unwrap_or(Path::new(""))
        .join(name)
}

/// The package as asked for, opened; `None` where it is the default one. What is wrong with one that the topology names
/// is told with the place where it does.
pub fn open_package(request: &Request, input: &Input) -> Result<Option<Package>> {
    let Some(path) = package(request, &input.plan) else {
        return Ok(None);
    };
    let opened = Package::open(&path);
    match &input.package_place {
        Some(place) if request.package.is_none() => opened.with_context(|| place.clone()),
        _ => opened,
    }
    .map(Some)
}

/// Where the results go.
pub fn output(request: &Request, plan: &ClusterPlan) -> PathBuf {
    request
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(&plan.name))
}

/// PKI, documents, seeds and `admin.conf`. All or nothing; a second call changes nothing.
pub fn userdata(input: &Input, folder: &Folder) -> Result<Outcome> {
    let plan = &input.plan;
    let pki = Pki::prepare(
        &folder.root().join(PKI),
        plan,
        OffsetDateTime::now_utc().date(),
    )?;
    let ledger = SecretIndex::new(plan, &pki)?;
    let mut manifest = Manifest::read(folder.root())?.unwrap_or_default();
    manifest
        .inputs
        .insert("topology".to_owned(), input.digest.clone());
    for path in [PKI, HOSTS, ADMIN_CONF] {
        manifest.forget(path);
    }
    let mut record =
        |path: String, bytes: &[u8]| manifest.outputs.insert(path, manifest::digest(bytes));
    let mut change = folder.change()?;

    // The PKI goes first: no document may ever be there whose authority is not.
    let mut tree = change.tree(PKI, 0o700)?;
    for (path, bytes) in pki.files()? {
        tree.put(&path, &bytes, 0o600)?;
        record(format!("{PKI}/{}", path.display()), &bytes);
    }
    let mut changed = change.take(tree, |_| false)?;

    let writer = Writer::new(plan, &pki)?;
    let mut tree = change.tree(HOSTS, 0o755)?;
    for host in &plan.hosts {
        for (name, bytes, mode) in host_files(&writer, &ledger, host)? {
            tree.put(&Path::new(&host.name).join(name), &bytes, mode)?;
            record(format!("{HOSTS}/{}/{name}", host.name), &bytes);
        }
    }
    changed |= change.take(tree, is_host_file)?;

    let admin = admin_conf(plan, &pki);
    record(ADMIN_CONF.to_owned(), admin.as_bytes());
    changed |= change.file(ADMIN_CONF, admin.as_bytes(), 0o600)?;
    // Last: what the manifest names is in place before the manifest is.
    changed |= change.file(manifest::FILE, &manifest.to_bytes()?, 0o644)?;
    change.commit()?;
    Ok(Outcome {
        folder: folder.root().to_owned(),
        hosts: plan.hosts.len(),
        changed,
    })
}

/// One host's document, judged, and its seed disk.
fn host_files(
    writer: &Writer<'_>,
    ledger: &SecretIndex,
    host: &HostPlan,
) -> Result<Vec<(&'static str, Vec<u8>, u32)>> {
    let document = writer.document(host)?;
    ledger.check(host, &document)?;
    let seed =
        seed::image(&document).with_context(|| format!("making the seed of `{}`", host.name))?;
    let mut files: Vec<_> = document
        .files()
        .into_iter()
        .map(|(name, bytes)| {
            (
                name,
                bytes.to_vec(),
                if name == "user-data" { 0o600 } else { 0o644 },
            )
        })
        .collect();
    files.push((SEED, seed, 0o600));
    Ok(files)
}

/// What goes when its host leaves the topology; anything else in `hosts/` is somebody's and stays.
fn is_host_file(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    path.components().count() == 2
        && ["user-data", "meta-data", "network-config", SEED].contains(&name)
}

/// The node image. `key` is the digest of everything it is made from: an image that was made from the same, and
/// whose bytes are still what they were, is left as it is. `build` makes it at the first path, and may use the
/// folder at the second; the image is published whole, and whatever `build` leaves behind is removed. `convert`, where
/// a qcow2 image is wanted too, makes it of the disk at the first path; one of an earlier image goes.
pub fn image(
    input: &Input,
    folder: &Folder,
    key: &str,
    build: impl FnOnce(&Path, &Path) -> Result<ImageReport>,
    convert: Option<impl FnOnce(&Path, &Path) -> Result<()>>,
) -> Result<Outcome> {
    let outcome = |changed| Outcome {
        folder: folder.root().to_owned(),
        hosts: input.plan.hosts.len(),
        changed,
    };
    let mut manifest = Manifest::read(folder.root())?.unwrap_or_default();
    let made_before = manifest
        .inputs
        .get("image")
        .is_some_and(|before| before == key);
    let built = made_before && is_whole(folder, &manifest, IMAGE)?;
    let convert = match convert {
        Some(_) if built && is_whole(folder, &manifest, QCOW2)? => None,
        convert => convert,
    };
    if built && convert.is_none() {
        return Ok(outcome(false));
    }
    let mut change = folder.change()?;
    let image = if built {
        folder.root().join(IMAGE)
    } else {
        let work = change.work()?;
        let image = change.large_file(IMAGE);
        let report = build(&image, &work)?;
        manifest.inputs.insert("image".to_owned(), key.to_owned());
        manifest
            .inputs
            .insert("package".to_owned(), report.package.clone());
        manifest.image = Some(report);
        manifest
            .outputs
            .insert(IMAGE.to_owned(), manifest::digest_file(&image)?);
        image
    };
    if let Some(convert) = convert {
        let qcow2 = change.large_file(QCOW2);
        convert(&image, &qcow2)?;
        manifest
            .outputs
            .insert(QCOW2.to_owned(), manifest::digest_file(&qcow2)?);
    } else if manifest.outputs.remove(QCOW2).is_some() {
        change.discard(QCOW2);
    }
    change.file(manifest::FILE, &manifest.to_bytes()?, 0o644)?;
    change.commit()?;
    Ok(outcome(true))
}

/// Is the output `name` there, with the bytes that the manifest says?
fn is_whole(folder: &Folder, manifest: &Manifest, name: &str) -> Result<bool> {
    let Some(digest) = manifest.outputs.get(name) else {
        return Ok(false);
    };
    let path = folder.root().join(name);
    Ok(path.is_file() && manifest::digest_file(&path)? == *digest)
}

#[cfg(test)]
mod tests;
