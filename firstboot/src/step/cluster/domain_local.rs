//! Resolves the apiserver's domain to this host, whose own apiserver serves from now on.

use std::fmt;

use anyhow::Result;
use userdata::node_config::NodeConfig;

use super::node_address;
use crate::host::Host;
use crate::report::Reporter;
use crate::step::Step;
use crate::step::hosts::{hosts_file_with, with_current_lines};
use crate::system::files::{Attributes, Root};

#[derive(Debug)]
pub struct DomainLocal {
    root: Root,
    domain: String,
    hosts: String,
}

impl DomainLocal {
    pub fn new(root: &Root, host: &Host, node: &NodeConfig) -> Result<Self> {
        Ok(Self {
            root: root.clone(),
            domain: node.apiserver.domain.clone(),
            hosts: hosts_file_with(host, Some(node_address(node)?)),
        })
    }
}

impl fmt::Display for DomainLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resolve {} to this host", self.domain)
    }
}

impl Step for DomainLocal {
    fn name(&self) -> &'static str {
        "domain-local"
    }

    /// By the file alone: the steps before write another host's address to it while they join.
    fn is_done(&self) -> Result<bool> {
        let hosts = with_current_lines(&self.root, &self.hosts)?;
        self.root
            .holds("/etc/hosts", hosts.as_bytes(), Attributes::mode(0o644))
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        // One rename: a lookup finds the other host or this one, never none.
        let hosts = with_current_lines(&self.root, &self.hosts)?;
        self.root
            .write("/etc/hosts", hosts.as_bytes(), Attributes::mode(0o644))?;
        Ok(())
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
