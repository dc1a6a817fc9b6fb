//! Reading and checking what the user gives.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};
use yaml::{Diagnostic, Diagnostics};

use super::base;
use crate::digest::digest;
use crate::package::{Package, Places, Verdict};
use crate::plan::ClusterPlan;
use crate::topology::check;
use crate::topology::value::Invalid;

/// Ten thousand hosts take 1 MiB.
const MAX_TOPOLOGY: u64 = 16 << 20;

/// What the user asks for.
#[derive(Debug, Clone)]
pub struct Request {
    pub topology: PathBuf,
    /// Overrides the package of the topology.
    pub package: Option<PathBuf>,
    /// The default is `./<cluster name>`.
    pub output: Option<PathBuf>,
}

/// A valid topology.
#[derive(Debug)]
pub struct Input {
    pub plan: ClusterPlan,
    pub warnings: Vec<Diagnostic>,
    /// Digest of the topology's bytes.
    pub(super) digest: String,
    /// The path of the package; `None` for the default package.
    package_path: Option<PathBuf>,
    /// The topology's name and text.
    source: (String, String),
    /// Line and column of the topology's values that a package may contradict.
    places: Vec<(&'static str, (usize, usize))>,
    /// Position of the package in the topology, `cluster.yaml:4:10`, if it is the topology's.
    package_place: Option<String>,
    /// The opened package: reading it takes seconds, and documents and image both need it.
    opened: OnceCell<Rc<Package>>,
}

/// An invalid topology, with all findings.
#[derive(Debug)]
pub struct Refused(pub Diagnostics);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refused {}

/// Reads and checks the topology, but not whether its package exists: documents need no package.
pub fn read(request: &Request) -> Result<Input> {
    read_with(request, &|_| Ok(()))
}

/// [`read`], and checks that the package exists. A missing package is a finding at the topology's
/// `package` key, or an error if `--package` names it.
pub fn validate(request: &Request) -> Result<Input> {
    let Some(path) = &request.package else {
        return read_with(request, &|name| {
            fs::metadata(beside(request, name))
                .map(drop)
                .map_err(|error| match error.kind() {
                    ErrorKind::NotFound => Invalid::new(
                        format!("the package `{name}` does not exist"),
                        "write its path relative to this file, or remove the key for the default \
                         package",
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
        read_file(path).with_context(|| format!("reading the topology `{}`", path.display()))?;
    let text = std::str::from_utf8(&bytes).with_context(|| {
        format!(
            "reading the topology `{}`: it is not UTF-8 text",
            path.display()
        )
    })?;
    let name = path.display().to_string();
    let mut checked = check::read_with(&name, text, package, &BTreeMap::new());
    if checked.is_err() {
        // Parts of the pod range for each node may be those of the package.
        let named = request.package.clone().or_else(|| {
            let named = check::package_of(text)?;
            Some(beside(request, &named))
        });
        let opened = named
            .filter(|path| path.exists())
            .map(|path| Package::read(&path));
        if let Some(Ok(opened)) = opened {
            let args = node_ranges(&opened.verdict());
            checked = check::read_with(&name, text, package, &args);
        }
    }
    let checked = checked.map_err(Refused)?;
    let place = |(line, column)| format!("{}:{line}:{column}", path.display());
    let own = request.package.is_none();
    Ok(Input {
        package_path: self::package(request, &checked.plan),
        package_place: checked.package_place.filter(|_| own).map(place),
        opened: OnceCell::new(),
        source: (name, text.to_owned()),
        places: checked.places,
        plan: checked.plan,
        warnings: checked.warnings,
        digest: digest(&bytes),
    })
}

/// The package's flags that decide the part of the pod range of each node.
fn node_ranges(verdict: &Verdict) -> BTreeMap<String, String> {
    let mut args = verdict.controller_manager_args();
    args.retain(|name, _| name.starts_with("node-cidr-mask-size") || name == "allocate-node-cidrs");
    args
}

/// The bytes of a topology. One that is too large is not read to its end.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = fs::File::open(path)?.take(MAX_TOPOLOGY + 1);
    file.read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= MAX_TOPOLOGY,
        "it is larger than {} MiB",
        MAX_TOPOLOGY >> 20
    );
    Ok(bytes)
}

/// The path of the package: `--package`, else the topology's; `None` for the default package.
pub fn package(request: &Request, plan: &ClusterPlan) -> Option<PathBuf> {
    let named = || plan.package.as_ref().map(|name| beside(request, name));
    request.package.clone().or_else(named)
}

/// Resolves a path of the topology, which is relative to the topology's folder.
pub(super) fn beside(request: &Request, name: &str) -> PathBuf {
    request
        .topology
        .parent()
        .unwrap_or(Path::new(""))
        .join(name)
}

impl Input {
    /// Opens the package; `None` for the default package. An error with the topology's package has
    /// its position in the topology.
    pub(super) fn open_package(&self) -> Result<Option<Rc<Package>>> {
        let Some(path) = &self.package_path else {
            return Ok(None);
        };
        if let Some(package) = self.opened.get() {
            return Ok(Some(Rc::clone(package)));
        }
        let opened = Package::open(path);
        let package = match &self.package_place {
            Some(place) => opened.with_context(|| place.clone()),
            None => opened,
        }?;
        Ok(Some(Rc::clone(
            self.opened.get_or_init(|| Rc::new(package)),
        )))
    }

    /// What imagegen and firstboot change of the package's files for this cluster. A contradiction
    /// between package and topology is an error with both places. A package that is not there yet
    /// is none: documents need no package otherwise.
    pub fn agree(&self) -> Result<Vec<String>> {
        if self
            .package_path
            .as_ref()
            .is_some_and(|path| !path.exists())
        {
            return Ok(Vec::new());
        }
        let Some(package) = self.open_package()? else {
            return Ok(Vec::new());
        };
        let verdict = package.verdict();
        let args = node_ranges(&verdict);
        if !args.is_empty() {
            let (name, text) = &self.source;
            check::read_with(name, text, &|_| Ok(()), &args).map_err(Refused)?;
        }
        let mut changes = verdict.image_changes();
        match verdict.agree(&self.plan, self) {
            Ok(more) => changes.extend(more),
            Err(errors) => bail!("package and topology differ:\n  {}", errors.join("\n  ")),
        }
        Ok(changes)
    }

    /// The plan with the names that the package's kubeadm configuration adds to the certificates.
    /// Documents need no package otherwise: one that is not there yet is a warning.
    pub(super) fn plan_with_base(&self) -> Result<ClusterPlan> {
        let mut plan = self.plan.clone();
        match &self.package_path {
            Some(path) if !path.exists() => log::warn!(
                "the package `{}` does not exist: if its `conf/kubeadm.yaml` has \
                 `apiServer.certSANs`, the certificates lack them until the next run",
                path.display()
            ),
            _ => {
                if let Some(package) = self.open_package()? {
                    self.agree()?;
                    base::add_names(&mut plan, &package)?;
                }
            }
        }
        Ok(plan)
    }
}

impl Places for Input {
    fn place(&self, key: &str) -> Option<String> {
        let (_, (line, column)) = self.places.iter().find(|(known, _)| *known == key)?;
        Some(format!("{}:{line}:{column}", self.source.0))
    }

    fn file(&self) -> &str {
        &self.source.0
    }
}

/// The output folder.
pub fn output(request: &Request, plan: &ClusterPlan) -> PathBuf {
    request
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(&plan.name))
}
