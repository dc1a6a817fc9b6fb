//! The phases of `kubeadm init` that need an apiserver: configuration, control-plane label and
//! taint, add-ons.

use std::fmt;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use userdata::image_info::{ImageInfo, KubeadmPhases};
use userdata::node_config::NodeConfig;

use super::{Membership, kubeadm_config, node_address};
use crate::kube::client::Client;
use crate::kube::{apply, documents};
use crate::kubeadm::{marker, paths, phases};
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::Root;
use crate::wait::endpoint;

#[derive(Debug)]
pub struct InitFinish {
    root: Root,
    endpoint: String,
    phases: KubeadmPhases,
    missing_addons: Vec<String>,
}

impl InitFinish {
    pub fn new(root: &Root, node: &NodeConfig, image: &ImageInfo) -> Result<Self> {
        Ok(Self {
            root: root.clone(),
            endpoint: endpoint(node_address(node)?, node.apiserver.port),
            phases: image.kubeadm_phases.clone(),
            missing_addons: image.missing_addons.clone(),
        })
    }

    fn dns_domain(&self) -> Result<String> {
        let path = kubeadm_config::PATH;
        let text = String::from_utf8(self.root.read(path)?.unwrap_or_default())
            .with_context(|| format!("reading `{path}`"))?;
        Ok(dns_domain(&documents::parse(path, &text)?).to_owned())
    }

    /// Creates CoreDNS's configuration before kubeadm does, where the host has no name server.
    ///
    /// kubeadm's own forwards to the servers of /etc/resolv.conf, and CoreDNS exits when there is
    /// none. kubeadm keeps a ConfigMap that exists.
    fn configure_dns(&self, report: &mut Reporter) -> Result<()> {
        let resolv_conf = self.root.read("/etc/resolv.conf")?.unwrap_or_default();
        let without_addon = self.missing_addons.iter().any(|addon| addon == "coredns");
        if without_addon || names_a_server(&String::from_utf8_lossy(&resolv_conf)) {
            return Ok(());
        }
        let client = Client::from_kubeconfig(&self.root, paths::ADMIN_CONF, &self.endpoint)?;
        let path = "/api/v1/namespaces/kube-system/configmaps/coredns";
        if client.get(path)?.status == 200 {
            return Ok(());
        }
        let domain = self.dns_domain()?;
        let target = format!("apiserver {}", client.base());
        apply::apply(&client, &[corefile(&domain)], |answer, wait| {
            report.waiting(&target, answer, wait);
        })
        .context("creating the configuration of CoreDNS")?;
        report.wait_finished();
        Ok(())
    }
}

/// The DNS domain of a kubeadm configuration; kubeadm's default where it names none.
fn dns_domain(documents: &[Value]) -> &str {
    documents
        .iter()
        .find_map(|document| document["networking"]["dnsDomain"].as_str())
        .unwrap_or("cluster.local")
}

/// Whether a resolv.conf has a `nameserver` line.
fn names_a_server(resolv_conf: &str) -> bool {
    resolv_conf
        .lines()
        .any(|line| line.split_whitespace().next() == Some("nameserver"))
}

/// kubeadm's Corefile without `forward`: names outside the cluster do not exist.
fn corefile(domain: &str) -> Value {
    let text = format!(
        ".:53 {{\n    errors\n    health {{\n       lameduck 5s\n    }}\n    ready\n    \
         kubernetes {domain} in-addr.arpa ip6.arpa {{\n       pods insecure\n       \
         fallthrough in-addr.arpa ip6.arpa\n       ttl 30\n    }}\n    prometheus :9153\n    \
         cache 30\n    loop\n    reload\n    loadbalance\n}}\n"
    );
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "coredns", "namespace": "kube-system" },
        "data": { "Corefile": text },
    })
}

impl fmt::Display for InitFinish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kubeadm init: upload configuration, mark the control plane, add-ons"
        )
    }
}

impl Step for InitFinish {
    fn name(&self) -> &'static str {
        "init-finish"
    }

    fn is_done(&self) -> Result<bool> {
        Membership::Initialised.is_complete(&self.root)
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        self.configure_dns(report)?;
        phases::init(&self.phases, phases::INIT_FINISH, &self.missing_addons)?;
        marker::set(&self.root, marker::INITIALISED)
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_no_name_servers() {
        assert!(!names_a_server("# nameserver 10.0.0.1\nsearch lab\n"));
        assert!(names_a_server("search lab\n nameserver 10.0.0.1\n"));
    }

    #[test]
    fn corefile_serves_the_domain_of_the_configuration() {
        let configuration = [
            json!({ "kind": "InitConfiguration" }),
            json!({ "kind": "ClusterConfiguration", "networking": { "dnsDomain": "lab.internal" } }),
        ];
        assert_eq!(dns_domain(&configuration), "lab.internal");
        assert_eq!(dns_domain(&configuration[..1]), "cluster.local");
    }

    #[test]
    fn corefile_without_forward_serves_the_cluster_domain() {
        let object = corefile("cluster.local");
        let text = object["data"]["Corefile"].as_str().unwrap();
        assert!(
            text.contains("kubernetes cluster.local in-addr.arpa ip6.arpa {"),
            "{text}"
        );
        assert!(!text.contains("forward"), "{text}");
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
