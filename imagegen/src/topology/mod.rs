//! The topology: `cluster.yaml`, what a person writes about one cluster and its hosts.
//!
//! Only its form stands here, every value as text. What a value may be is [`value`]'s to say, what values may
//! stand together [`check`]'s, and what is used when one is left out as well.

pub mod check;
mod findings;
mod hosts;
mod network;
pub mod value;

use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use userdata::contract::API_VERSION;

/// A Firstlight cluster and its hosts.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "Firstlight topology")]
pub struct Topology {
    /// `firstlight/v1`
    #[serde(rename = "apiVersion")]
    #[schemars(required, with = "String", extend("const" = API_VERSION))]
    pub api_version: Option<String>,
    /// `Cluster`
    #[schemars(required, with = "String", extend("const" = "Cluster"))]
    pub kind: Option<String>,
    /// The cluster's name, a DNS label.
    #[schemars(required, with = "String")]
    pub name: Option<String>,
    /// The offline package: a folder, `.tar`, `.tar.gz` or `.tar.zst`, from here or `--package`; the embedded
    /// default when neither names one.
    pub package: Option<String>,
    /// How the apiserver is reached.
    pub apiserver: ApiserverTopology,
    /// Ranges, the way out, and name servers.
    pub network: NetworkTopology,
    pub certificates: CertificatesTopology,
    /// OpenSSH public keys that may log in on every host.
    pub ssh_authorized_keys: Vec<String>,
    /// Time servers.
    pub ntp: Vec<String>,
    /// What is set over the package's own kubeadm configuration.
    pub kubernetes: KubernetesTopology,
    /// What the node image is made of.
    pub image: ImageTopology,
    /// The hosts; the first master is master0.
    #[schemars(required)]
    pub hosts: Vec<HostTopology>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApiserverTopology {
    /// The name every host knows it by; default `apiserver.cluster.local`.
    pub domain: Option<String>,
    /// Default 6443.
    pub port: Option<u16>,
    /// What nodes resolve the domain to; default `10.103.97.2`.
    pub vip: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkTopology {
    /// Pod range, or a list of one IPv4 and one IPv6 range; default `10.244.0.0/16`.
    pub pods: OneOrMany,
    /// Service range, or a list of one IPv4 and one IPv6 range; default `10.96.0.0/16`.
    pub services: OneOrMany,
    /// The way out, one address per family; an air-gapped cluster may have none.
    pub gateway: OneOrMany,
    pub nameservers: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CertificatesTopology {
    /// From the day of issue, in years or days: `100y` (the default), `3650d`.
    pub validity: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesTopology {
    /// Flags of kube-apiserver, without dashes.
    pub apiserver_args: BTreeMap<String, String>,
    pub controller_manager_args: BTreeMap<String, String>,
    pub scheduler_args: BTreeMap<String, String>,
    pub etcd_args: BTreeMap<String, String>,
    /// Fields of KubeletConfiguration.
    pub kubelet: serde_json::Map<String, serde_json::Value>,
    /// How long kubeadm waits for the control plane: `20m`; kubeadm's own 4 minutes when left out.
    pub control_plane_timeout: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImageTopology {
    /// `generic` (default) for real hardware, or `cloud`, smaller, for virtual machines.
    #[schemars(extend("enum" = ["generic", "cloud"]))]
    pub kernel: Option<String>,
    /// Extra arguments of the kernel, one per item.
    pub cmdline: Vec<String>,
    /// Consoles, the last being `/dev/console`: `tty0`, `ttyS0,115200n8`.
    pub console: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HostTopology {
    /// Host name and node name, a DNS label.
    #[schemars(required, with = "String")]
    pub name: Option<String>,
    #[schemars(required, with = "String", extend("enum" = ["master", "node"]))]
    pub role: Option<String>,
    /// With prefix, `192.168.7.10/24`, or a list; the first is the node's address.
    #[schemars(required)]
    pub address: OneOrMany,
    /// Of the card that carries the address: by it a machine finds its document.
    #[schemars(required, with = "String")]
    pub mac: Option<String>,
    /// Labels of the Kubernetes node.
    pub labels: BTreeMap<String, String>,
    /// `key=value:Effect` or `key:Effect`; `[]` for none. Without this key a master has kubeadm's control-plane taint.
    pub taints: Option<Vec<String>>,
}

/// One text or a list of texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OneOrMany {
    pub texts: Vec<String>,
    /// Written as a list: then its items have paths of their own.
    list: bool,
}

impl OneOrMany {
    /// The path of item `i` of the field at `path`.
    pub fn path(&self, path: &str, i: usize) -> String {
        if self.list {
            format!("{path}[{i}]")
        } else {
            path.to_owned()
        }
    }

    /// Each text with its path.
    pub fn with_paths<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (String, &'a str)> {
        self.texts
            .iter()
            .enumerate()
            .map(move |(i, text)| (self.path(path, i), text.as_str()))
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or a list of texts")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany {
                    texts: vec![text.to_owned()],
                    list: false,
                })
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<OneOrMany, E> {
                Ok(OneOrMany::default())
            }

            fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<OneOrMany, E> {
                Err(E::custom("an address was expected, not a number"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = items.next_element::<String>()? {
                    texts.push(text);
                }
                if texts.is_empty() {
                    return Err(A::Error::custom("the list is empty"));
                }
                Ok(OneOrMany { texts, list: true })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for OneOrMany {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OneOrMany".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            ]
        })
    }
}
