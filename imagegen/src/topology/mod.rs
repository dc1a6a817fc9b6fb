//! The topology, `cluster.yaml`: one cluster and its hosts, as a person writes them.
//!
//! This module has only its form, with values as text. [`value`] checks single values; [`check`]
//! checks combinations and fills defaults.

pub mod check;
mod findings;
mod hardware;
mod hosts;
mod image;
pub mod names;
mod network;
mod pods;
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
    /// The offline package: a folder, `.tar`, `.tar.gz` or `.tar.zst`, relative to this file.
    /// `--package` overrides it; without either, imagegen builds the default package.
    pub package: Option<String>,
    /// The endpoint of the apiserver.
    pub apiserver: ApiserverTopology,
    /// Address ranges, gateway and name servers.
    pub network: NetworkTopology,
    /// Options of the certificates that imagegen issues.
    pub certificates: CertificatesTopology,
    /// OpenSSH public keys that may log in to every host.
    pub ssh_authorized_keys: Vec<String>,
    /// NTP servers.
    pub ntp: Vec<String>,
    /// Overrides for the package's kubeadm configuration.
    pub kubernetes: KubernetesTopology,
    /// What becomes of the secrets in a host's seed once the host is ready: `scrub` (default) removes
    /// them, `keep` leaves them.
    #[schemars(extend("enum" = ["scrub", "keep"]))]
    pub seed: Option<String>,
    /// How the documents of the hosts are kept secret on their way.
    pub document: DocumentTopology,
    /// Options of the node image.
    pub image: ImageTopology,
    /// The hosts. The first master is master0.
    #[schemars(required)]
    pub hosts: Vec<HostTopology>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApiserverTopology {
    /// The apiserver's name on every host; default `apiserver.cluster.local`.
    pub domain: Option<String>,
    /// Default 6443.
    pub port: Option<u16>,
    /// More names and addresses of the apiserver, of a load balancer: `k8s.example.com`. They are
    /// in every apiserver's certificate, like `apiServer.certSANs` of the package's kubeadm.yaml.
    pub names: Vec<String>,
    /// The virtual IP to which workers resolve the domain, of the first address family; default
    /// `10.103.97.2` or `fd10:103:97::2`.
    pub vip: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkTopology {
    /// Pod range, or a list of one IPv4 and one IPv6 range; default `10.244.0.0/16`. The first range
    /// decides the cluster's first address family.
    pub pods: OneOrMany,
    /// Service range, or a list of one IPv4 and one IPv6 range in the order of `pods`; default
    /// `10.96.0.0/16`.
    pub services: OneOrMany,
    /// The default gateway, one address per family; optional for an air-gapped cluster.
    pub gateway: OneOrMany,
    /// DNS servers of the hosts.
    pub nameservers: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CertificatesTopology {
    /// Validity from the day of issue, in years or days: `100y` (the default and the most), `3650d`.
    /// `imagegen` renews a certificate after two thirds of it. The authorities live 100 years.
    pub validity: Option<String>,
    /// Validity of the administrator's certificates, those of `system:masters`: `1y`; default
    /// `validity`. After two thirds of it run `imagegen userdata` and give the masters their new
    /// documents.
    pub admin: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DocumentTopology {
    /// `none` (default), or `passphrase`: `user-data` of each host is encrypted by age with a
    /// passphrase of its own, which imagegen keeps in `pki/passphrases/`. The first boot of a
    /// machine asks for it on the console, or takes it from the credential
    /// `firstlight.document-passphrase`.
    #[schemars(extend("enum" = ["none", "passphrase"]))]
    pub encrypt: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesTopology {
    /// Flags of kube-apiserver, without dashes.
    pub apiserver_args: BTreeMap<String, String>,
    /// Flags of kube-controller-manager, without dashes.
    pub controller_manager_args: BTreeMap<String, String>,
    /// Flags of kube-scheduler, without dashes.
    pub scheduler_args: BTreeMap<String, String>,
    /// Flags of etcd, without dashes.
    pub etcd_args: BTreeMap<String, String>,
    /// Fields of KubeletConfiguration.
    pub kubelet: serde_json::Map<String, serde_json::Value>,
    /// Fields of KubeProxyConfiguration, `mode: nftables`. The mode `ipvs` needs ipset in
    /// kube-proxy's image, as in the default package; the VIP is added to `excludeCIDRs`.
    pub kube_proxy: serde_json::Map<String, serde_json::Value>,
    /// Flags of kube-controller-manager in the package, which hold where the topology has none.
    #[serde(skip)]
    #[schemars(skip)]
    pub package_args: BTreeMap<String, String>,
    /// How long kubeadm waits for the control plane, `20m`; default 4 minutes.
    pub control_plane_timeout: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImageTopology {
    /// `generic` (default) for real hardware, or `cloud`, smaller, for virtual machines.
    #[schemars(extend("enum" = ["generic", "cloud"]))]
    pub kernel: Option<String>,
    /// Additional kernel arguments, one per item. Those that change the way to the verified root
    /// are refused.
    pub kernel_arguments: Vec<String>,
    /// The former name of `kernel_arguments`; its items come first.
    pub cmdline: Vec<String>,
    /// Consoles, `tty0` or `ttyS0,115200n8`; the last is `/dev/console`. A serial line without a
    /// speed gets 115200n8.
    pub console: Vec<String>,
    /// Firmware for the hardware of the hosts, and microcode: `amd-ucode`, `bnx2`, `bnx2x`,
    /// `cavium`, `intel-misc`, `intel-ucode`, `linux-free`, `misc-nonfree`, `myricom`, `netronome`,
    /// `netxen`, `qlogic`, `realtek`. Each is the package of Debian with this name.
    pub firmware: Vec<String>,
    /// Kernel modules that are loaded at boot, also in the initrd.
    pub modules: Vec<String>,
    /// Debian packages in the root. Their services start at boot.
    pub packages: Vec<String>,
    /// `none` (default), or `all`: every host's document is in the image, for a lab. Then all hosts
    /// boot copies of one image without a seed disk, and each finds its document by MAC address,
    /// serial number or UUID. Such an image holds the private keys of the whole cluster: guard it
    /// as the folder `pki`.
    #[schemars(extend("enum" = ["none", "all"]))]
    pub seeds: Option<String>,
    /// What happens to keys of a cloud-config that an immutable root cannot honour, such as
    /// `packages`: `report` (default) applies the rest and reports it on the console and in the status,
    /// `refuse` refuses the document.
    #[schemars(extend("enum" = ["report", "refuse"]))]
    pub impossible_keys: Option<String>,
    /// `{key: FILE, certificate: FILE}` signs the kernel image for UEFI Secure Boot: RSA in PEM,
    /// without a passphrase, paths relative to this file. Enrol the certificate in the machines'
    /// firmware: imagegen writes `db.der` and `db.esl` beside the image.
    pub secure_boot: Option<SecureBootTopology>,
    /// `{ encrypt: tpm2 }` makes the state partition as LUKS2, with a key that the machine's TPM 2.0
    /// seals to the images of this output folder; a machine without a TPM then does not start.
    /// imagegen keeps a recovery key of each host in `pki/state/recovery/`. Default `none`.
    pub state: StateTopology,
    /// State of machines that boot from the network or a medium: `{ blank_disks: true }` makes it
    /// on the only blank disk, `{ memory_masters: true }` lets masters have it in memory.
    pub diskless: DisklessTopology,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecureBootTopology {
    /// A private RSA key in PEM, without a passphrase; a path relative to this file.
    #[schemars(required, with = "String")]
    pub key: Option<String>,
    /// Its certificate in PEM; a path relative to this file.
    #[schemars(required, with = "String")]
    pub certificate: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StateTopology {
    /// `none` (default), or `tpm2`: the first boot makes the state partition as LUKS2 and seals its
    /// key to the machine's TPM and to images of this output folder. A machine without a TPM 2.0
    /// then does not start. imagegen keeps a recovery key of each host in `pki/state/recovery/`.
    #[schemars(extend("enum" = ["none", "tpm2"]))]
    pub encrypt: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DisklessTopology {
    /// Whether the state partition is made on the only blank disk. Without it, and without a disk
    /// that has state already, state is in memory and lost at power-off.
    pub blank_disks: bool,
    /// Whether a master may have its state in memory, etcd's data with it.
    pub memory_masters: bool,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HostTopology {
    /// Host name and node name, a DNS label.
    #[schemars(required, with = "String")]
    pub name: Option<String>,
    /// `master` for a control-plane host, `node` for a worker.
    #[schemars(required, with = "String", extend("enum" = ["master", "node"]))]
    pub role: Option<String>,
    /// Address with prefix length, `192.168.7.10/24`, or a list; the first is the node's address, of
    /// the cluster's first address family. A host with an IPv6 address takes neither addresses nor
    /// routes from router advertisements.
    #[schemars(required)]
    pub address: OneOrMany,
    /// MAC address of the network card with the address. A machine finds its document by it.
    #[schemars(required, with = "String")]
    pub mac: Option<String>,
    /// DMI serial number of the machine (`dmidecode -s system-serial-number`). With it, the document
    /// is for the machine that has this number and the MAC address.
    pub serial: Option<String>,
    /// SMBIOS UUID of the machine (`dmidecode -s system-uuid`). With it, the document is for the
    /// machine that has this UUID and the MAC address.
    pub uuid: Option<String>,
    /// Labels of the Kubernetes node.
    pub labels: BTreeMap<String, String>,
    /// `key=value:Effect` or `key:Effect`; `[]` for none. Without this key a master has kubeadm's
    /// control-plane taint.
    pub taints: Option<Vec<String>>,
}

/// One text or a list of texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OneOrMany {
    pub texts: Vec<String>,
    /// In a list, each item has its own path.
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
