//! Programs that a node image takes from the default package where a foreign package lacks them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use build_tools::cache::Cache;
use build_tools::progress::Progress;

use crate::assets;
use crate::modules::{self, Builder, Module};

/// The one program besides the plugins.
pub const SUPPLIED_CRICTL: &str = "crictl";

/// Upstream's CNI plugins, and flannel's, which its own manifest no longer brings.
const PLUGINS: [&Module; 2] = [&modules::CNI_PLUGINS, &modules::FLANNEL_CNI];

/// Names of the CNI plugins, sorted.
pub fn supplied_plugins() -> Vec<&'static str> {
    let mut names: Vec<_> = PLUGINS
        .into_iter()
        .flat_map(Module::program_names)
        .collect();
    names.sort_unstable();
    names
}

/// `crictl 1.37.0`, `CNI plugins 1.10.0`: for people.
pub fn supplied_version(program: &str) -> String {
    if program == SUPPLIED_CRICTL {
        return format!("crictl {}", modules::CRICTL.version);
    }
    format!("CNI plugins {}", modules::CNI_PLUGINS.version)
}

/// The releases of programs that this crate builds, and which upstream publishes too.
#[derive(Debug, Clone, Copy)]
pub struct Releases {
    pub containerd: &'static str,
    pub crictl: &'static str,
    pub cni_plugins: &'static str,
    pub flannel: &'static str,
}

/// Versions without a leading `v`.
pub static RELEASES: Releases = Releases {
    containerd: modules::CONTAINERD.version,
    crictl: modules::CRICTL.version,
    cni_plugins: modules::CNI_PLUGINS.version,
    flannel: modules::FLANNEL.version,
};

/// What decides the bytes of all supplies, for keys.
pub fn supply_recipe() -> String {
    let modules = [&modules::CRICTL].into_iter().chain(PLUGINS);
    modules.map(Module::recipe).collect()
}

/// Whether a line is one of the scripts in the default package's `shell/`.
pub fn is_own_script_line(line: &str) -> bool {
    let scripts = assets::FILES
        .iter()
        .filter(|(path, _)| path.starts_with("shell/"));
    scripts
        .flat_map(|(_, text)| text.lines())
        .any(|own| own.trim() == line.trim())
}

/// The built programs, by module.
#[derive(Debug)]
pub struct Supplies {
    folders: Vec<PathBuf>,
}

impl Supplies {
    /// Builds `crictl`, the plugins or both, unless the cache has them. That takes a minute, the Go
    /// module proxy and root the first time.
    pub fn ensure(crictl: bool, plugins: bool, cache: &Cache, progress: &Progress) -> Result<Self> {
        let mut wanted: Vec<&Module> = Vec::new();
        wanted.extend(crictl.then_some(&modules::CRICTL));
        wanted.extend(PLUGINS.into_iter().filter(|_| plugins));
        let mut folders = Vec::new();
        if !wanted.is_empty() {
            let builder = Builder::new(cache, progress)?;
            for module in wanted {
                folders.push(builder.build(module)?.folder().to_owned());
            }
        }
        Ok(Self { folders })
    }

    /// Programs of `folder`, built elsewhere.
    pub fn of(folder: &Path) -> Self {
        Self {
            folders: vec![folder.to_owned()],
        }
    }

    /// The file of one program.
    pub fn file(&self, program: &str) -> Option<PathBuf> {
        let mut files = self.folders.iter().map(|folder| folder.join(program));
        files.find(|path| path.is_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supplied_plugins_are_those_of_upstream_and_flannel() {
        let names = supplied_plugins();
        for name in ["bridge", "flannel", "host-local", "loopback", "portmap"] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        assert!(supply_recipe().contains("cri-tools"));
    }
}
