//! The package's manifests (`conf/net/*.yaml`), applied by master0 through the API.

use std::fmt;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use userdata::contract::CONF_DIR;
use userdata::node_config::NodeConfig;

use crate::kube::client::Client;
use crate::kube::{apply, documents, pod_network};
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::{Attributes, Root};
use crate::wait::{endpoint, until_apiserver_ready};

/// Digest of what was applied last. Later changes by hand are the administrator's and stay.
const APPLIED_MARK: &str = "/var/lib/firstlight/manifests-applied";

/// The same in the cluster, for a host that becomes master0 later.
const APPLIED: &str = "firstlight-manifests";

#[derive(Debug)]
pub struct Manifests {
    root: Root,
    endpoint: String,
    files: Vec<String>,
    objects: Vec<Value>,
    digest: String,
}

impl Manifests {
    /// Reads and parses at once: a broken manifest is found before the first change to the host.
    pub fn new(root: &Root, node: &NodeConfig) -> Result<Self> {
        let own = node
            .addresses
            .first()
            .context("the node file has no address")?
            .addr();
        let directory = format!("{CONF_DIR}/net");
        let mut files = root.list(&directory)?;
        files.retain(|name| name.ends_with(".yaml") || name.ends_with(".yml"));
        let mut objects = vec![node_certificate_renewal()];
        objects.extend(apiservers_for_nodes());
        for name in &files {
            let path = format!("{directory}/{name}");
            let text = String::from_utf8(root.read(&path)?.unwrap_or_default())
                .with_context(|| format!("reading `{path}`"))?;
            for document in documents::parse(&path, &text)? {
                match document["items"].as_array() {
                    Some(items) if document["kind"] == "List" => objects.extend(items.clone()),
                    _ => objects.push(document),
                }
            }
        }
        pod_network::complete(&mut objects, &node.network.pods, &node.apiserver)?;
        for object in &objects {
            apply::identify(object)
                .with_context(|| format!("reading the manifests in `{directory}`"))?;
        }
        let digest = Sha256::digest(documents::to_text(&objects));
        let digest = digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
            + "\n";
        Ok(Self {
            root: root.clone(),
            endpoint: endpoint(own, node.apiserver.port),
            files,
            objects,
            digest,
        })
    }
}

impl Manifests {
    /// Whether another host has applied the same.
    fn is_applied(&self, client: &Client) -> Result<bool> {
        let path = format!("/api/v1/namespaces/kube-system/configmaps/{APPLIED}");
        let answer = client.get(&path)?;
        // 403: a new apiserver has not made its default roles.
        if matches!(answer.status, 403 | 404) {
            return Ok(false);
        }
        let found = answer
            .ok()
            .context("asking the cluster for the manifests that it has")?;
        Ok(found["data"]["digest"] == self.digest.trim_end())
    }
}

fn applied(digest: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": APPLIED, "namespace": "kube-system" },
        "data": { "digest": digest.trim_end() },
    })
}

impl fmt::Display for Manifests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "apply the package's manifests ({})",
            self.files.join(", ")
        )
    }
}

impl Step for Manifests {
    fn name(&self) -> &'static str {
        "manifests"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(self.root.read(APPLIED_MARK)?.as_deref() == Some(self.digest.as_bytes()))
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let client =
            Client::from_kubeconfig(&self.root, "/etc/kubernetes/admin.conf", &self.endpoint)?;
        until_apiserver_ready(&client, report);
        let target = format!("apiserver {}", client.base());
        if self.is_applied(&client)? {
            log::info!("the cluster has these manifests already, from another master0");
        } else {
            let mut objects = self.objects.clone();
            // The last one: what a power cut interrupts has no mark.
            objects.push(applied(&self.digest));
            apply::apply(&client, &objects, |answer, wait| {
                report.waiting(&target, answer, wait);
            })?;
            report.wait_finished();
        }
        self.root.write(
            APPLIED_MARK,
            self.digest.as_bytes(),
            Attributes::mode(0o600),
        )?;
        Ok(())
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

/// Lets a kubelet renew its own client certificate. kubeadm makes this together with bootstrap
/// tokens, which we skip.
fn node_certificate_renewal() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "kubeadm:node-autoapprove-certificate-rotation" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes" }],
    })
}

/// Lets lvscare, which runs as its node's kubelet, see where the apiservers are: that one slice,
/// and nothing else.
fn apiservers_for_nodes() -> [Value; 2] {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let metadata = json!({ "name": "firstlight:apiservers", "namespace": "default" });
    [
        json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "Role",
            "metadata": metadata,
            "rules": [
                {
                    "apiGroups": ["discovery.k8s.io"],
                    "resources": ["endpointslices"],
                    "resourceNames": ["kubernetes"],
                    "verbs": ["get", "list", "watch"],
                },
                {
                    "apiGroups": [""],
                    "resources": ["endpoints"],
                    "resourceNames": ["kubernetes"],
                    "verbs": ["get"],
                },
            ],
        }),
        json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": { "apiGroup": GROUP, "kind": "Role", "name": "firstlight:apiservers" },
            "subjects": [{ "apiGroup": GROUP, "kind": "Group", "name": "system:nodes" }],
        }),
    ]
}
