//! Writes the topology of the demo: a template and the requested number of hosts.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use vm_tests::host::run_dir::target_dir;

/// The template; its hosts are replaced.
const TEMPLATE: &str = include_str!("../topologies/demo.yaml");

/// The last part of the first address of each role, in 192.168.7.0/24.
const FIRST_MASTER: u32 = 10;
const FIRST_NODE: u32 = 20;
const AFTER_LAST_NODE: u32 = 100;

/// Writes the topology to a file for `imagegen`. All sizes have the same file name and output
/// folder, because the image does not depend on the hosts.
pub(crate) fn write(masters: u32, nodes: u32) -> Result<PathBuf> {
    let folder = target_dir().join("vm-tests");
    fs::create_dir_all(&folder).with_context(|| format!("creating `{}`", folder.display()))?;
    let path = folder.join("demo.yaml");
    fs::write(&path, text(masters, nodes)?)
        .with_context(|| format!("writing `{}`", path.display()))?;
    Ok(path)
}

fn text(masters: u32, nodes: u32) -> Result<String> {
    let (most_masters, most_nodes) = (FIRST_NODE - FIRST_MASTER, AFTER_LAST_NODE - FIRST_NODE);
    ensure!(
        (1..=most_masters).contains(&masters) && nodes <= most_nodes,
        "the demo supports 1 to {most_masters} masters and 0 to {most_nodes} nodes; \
         for other clusters write a topology and pass it with --topology"
    );
    let (head, _) = TEMPLATE
        .split_once("\nhosts:\n")
        .context("the template has no hosts")?;
    let masters = (0..masters).map(|n| host('m', "master", n, FIRST_MASTER + n));
    let nodes = (0..nodes).map(|n| host('n', "node", n, FIRST_NODE + n));
    let hosts: String = masters.chain(nodes).collect();
    Ok(format!("{head}\nhosts:\n{hosts}"))
}

/// The last part of the MAC address has the digits of the last part of the IP address.
fn host(letter: char, role: &str, number: u32, last: u32) -> String {
    format!(
        "- {{ name: {letter}{number}, role: {role}, address: 192.168.7.{last}/24, mac: \"52:54:00:00:07:{last}\" }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imagegen_accepts_every_size() -> Result<()> {
        for (masters, nodes) in [(1, 0), (3, 1), (10, 80)] {
            let text = text(masters, nodes)?;
            let checked = imagegen::topology::check::read("demo.yaml", &text);
            let plan = checked.map_err(|found| anyhow::anyhow!("{found:?}"))?.plan;
            let hosts = usize::try_from(masters + nodes)?;
            assert_eq!(plan.hosts.len(), hosts);
            assert_eq!(plan.masters().count(), usize::try_from(masters)?);
        }
        Ok(())
    }

    #[test]
    fn sizes_without_addresses_are_refused() {
        for (masters, nodes) in [(0, 1), (11, 0), (1, 81)] {
            assert!(text(masters, nodes).is_err(), "{masters} {nodes}");
        }
    }
}
