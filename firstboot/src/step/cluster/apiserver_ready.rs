//! Waits for this host's own apiserver.

use std::fmt;

use anyhow::Result;
use userdata::node_config::NodeConfig;

use super::{Membership, node_address};
use crate::kube::client::Client;
use crate::kubeadm::{marker, paths};
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::Root;
use crate::wait::{endpoint, until_apiserver_ready};

#[derive(Debug)]
pub struct ApiserverReady {
    root: Root,
    endpoint: String,
    membership: Membership,
}

impl ApiserverReady {
    pub fn new(root: &Root, node: &NodeConfig, membership: Membership) -> Result<Self> {
        Ok(Self {
            root: root.clone(),
            endpoint: endpoint(node_address(node)?, node.apiserver.port),
            membership,
        })
    }
}

impl fmt::Display for ApiserverReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wait for the local apiserver {}", self.endpoint)
    }
}

impl Step for ApiserverReady {
    fn name(&self) -> &'static str {
        "apiserver-ready"
    }

    fn is_done(&self) -> Result<bool> {
        self.membership.is_complete(&self.root)
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let client = Client::from_kubeconfig(&self.root, paths::ADMIN_CONF, &self.endpoint)?;
        until_apiserver_ready(&client, report);
        if self.membership == Membership::Initialised {
            marker::set(&self.root, marker::APISERVER_ANSWERED)?;
        }
        Ok(())
    }

    /// master0 sets a marker; a host that joins only waits.
    fn is_lasting(&self) -> bool {
        self.membership == Membership::Initialised
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
