//! The node's way to the apiservers: route and IPVS rules, at every boot, before kubelet starts.
//!
//! Sets up once. Keeping it right is lvscare's, as a static pod.

use std::fmt;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use userdata::node_config::NodeConfig;

use crate::report::Reporter;
use crate::step::Step;
use crate::system::command;

pub const AUTHORITY: &str = "/etc/kubernetes/pki/ca.crt";
const PROGRAM: &str = "lvscare";

#[derive(Debug, Clone)]
pub struct Ipvs {
    arguments: Vec<String>,
    service: SocketAddr,
}

impl Ipvs {
    pub fn new(node: &NodeConfig) -> Result<Self> {
        Ok(Self {
            arguments: servers(node)?,
            service: SocketAddr::new(node.apiserver.vip, node.apiserver.port),
        })
    }

    /// Asks every master once; those that answer are in the table then, or all when none does.
    pub fn set_up(&self) -> Result<()> {
        // Without `--wait`: the rules must exist even if no server answers, and the join reports
        // what it waits for.
        let mut arguments = vec!["run-once".to_owned()];
        arguments.extend(self.arguments.clone());
        // A master that hangs must not hold up a boot.
        arguments.push("--health-timeout=3s".into());
        command::run(PROGRAM, &arguments)
    }
}

/// lvscare's flags for this cluster: virtual server, masters, authority.
pub fn servers(node: &NodeConfig) -> Result<Vec<String>> {
    let (vip, port) = (node.apiserver.vip, node.apiserver.port);
    let masters: Vec<_> = node
        .masters
        .iter()
        // IPVS does not translate between families.
        .filter(|master| master.address.is_ipv4() == vip.is_ipv4())
        .map(|master| SocketAddr::new(master.address, port).to_string())
        .collect();
    ensure!(
        !masters.is_empty(),
        "no master has an address of the family of the virtual address {vip}"
    );
    Ok(vec![
        format!("--vs={}", SocketAddr::new(vip, port)),
        format!("--rs={}", masters.join(",")),
        format!("--ca={AUTHORITY}"),
    ])
}

impl fmt::Display for Ipvs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program IPVS for {}", self.service)
    }
}

impl Step for Ipvs {
    fn name(&self) -> &'static str {
        "ipvs"
    }

    /// Never: lvscare itself looks at the kernel's tables and changes only what differs.
    fn is_done(&self) -> Result<bool> {
        Ok(false)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        self.set_up()
    }

    fn is_lasting(&self) -> bool {
        false
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
