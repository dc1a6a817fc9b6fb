//! Kernel modules, sysctls and swap, as Kubernetes needs them.
//!
//! systemd loads and sets them from the image's files; this step checks and corrects them, so that
//! kubelet never starts on a kernel that it cannot use.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use userdata::node_config::{NodeConfig, Role};

use super::Step;
use crate::report::Reporter;
use crate::system::command;

#[derive(Debug)]
pub struct Kernel {
    modules: Vec<&'static str>,
    settings: Vec<(&'static str, &'static str)>,
}

impl Kernel {
    pub fn new(node: &NodeConfig) -> Self {
        let mut modules = vec!["overlay", "br_netfilter", "nf_conntrack"];
        if node.role == Role::Node {
            modules.extend(["ip_vs", "ip_vs_rr"]);
        }
        let mut settings = vec![
            ("net/ipv4/ip_forward", "1"),
            ("net/bridge/bridge-nf-call-iptables", "1"),
        ];
        if node
            .addresses
            .iter()
            .any(|address| address.addr().is_ipv6())
        {
            settings.extend([
                ("net/ipv6/conf/all/forwarding", "1"),
                ("net/bridge/bridge-nf-call-ip6tables", "1"),
            ]);
        }
        Self { modules, settings }
    }

    fn missing_modules(&self) -> Vec<&str> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let builtin =
            fs::read_to_string(format!("/lib/modules/{}/modules.builtin", release.trim()))
                .unwrap_or_default();
        let is_there = |name: &str| {
            // A built-in module has a directory only if it has parameters.
            let file = format!("/{name}.ko");
            Path::new("/sys/module").join(name).exists()
                || builtin.lines().any(|line| line.ends_with(&file))
        };
        self.modules
            .iter()
            .copied()
            .filter(|name| !is_there(name))
            .collect()
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "load kernel modules {}, enable IP forwarding, turn swap off",
            self.modules.join(", ")
        )
    }
}

impl Step for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn is_done(&self) -> Result<bool> {
        let settings = self
            .settings
            .iter()
            .all(|(name, value)| setting(name).as_deref() == Some(*value));
        Ok(self.missing_modules().is_empty() && settings && swaps()?.is_empty())
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        let missing = self.missing_modules();
        if !missing.is_empty() {
            let mut arguments = vec!["--all"];
            arguments.extend(&missing);
            command::run("modprobe", &arguments)
                .with_context(|| format!("loading the kernel modules {}", missing.join(", ")))?;
        }
        for (name, value) in &self.settings {
            if setting(name).as_deref() != Some(*value) {
                #[allow(
                    clippy::disallowed_methods,
                    reason = "a kernel setting is not a file that can be half written"
                )]
                fs::write(Path::new("/proc/sys").join(name), value)
                    .with_context(|| format!("setting `{}` to {value}", name.replace('/', ".")))?;
            }
        }
        if !swaps()?.is_empty() {
            command::run("swapoff", &["--all"]).context("turning swap off")?;
        }
        let swaps = swaps()?;
        if !swaps.is_empty() {
            bail!(
                "swap is still on ({}), and kubelet does not start with swap",
                swaps.join(", ")
            );
        }
        Ok(())
    }

    fn is_lasting(&self) -> bool {
        false
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

fn setting(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    Some(text.trim().to_owned())
}

/// The active swap devices; the first line of the table is its heading.
fn swaps() -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/swaps").context("reading `/proc/swaps`")?;
    Ok(table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect())
}
