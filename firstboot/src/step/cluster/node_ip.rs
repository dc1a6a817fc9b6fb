//! A host whose document gives it another address than it joined with: kubelet and the static pods
//! follow.
//!
//! Names are what a cluster holds on to, and certificates come with the document; what remembers
//! the address is few: kubelet's `--node-ip`, the manifests of the apiserver and of etcd, and
//! etcd's own list of members. The list is changed first, through another master, as etcd's
//! documentation has it, so that no member waits at the old address.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use userdata::image_info::ImageInfo;
use userdata::node_config::{Master, NodeConfig, Role};

use crate::step::Step;
use crate::wait::{Backoff, endpoint, until};

use super::kubeadm_config::KubeadmConfig;
use crate::etcd::membership::Etcd;
use crate::etcd::{CLIENT_PORT, PEER_PORT};
use crate::kubeadm::config;
use crate::report::Reporter;
use crate::system::command;
use crate::system::files::{Attributes, Root};

const KUBELET_FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";
const NODE_IP: &str = "--node-ip=";
const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// kubeadm's configuration of a control plane at the new address.
const CONFIG: &str = "/var/lib/firstlight/kubeadm-address.yaml";

#[derive(Debug)]
pub struct NodeIp {
    root: Root,
    name: String,
    address: IpAddr,
    /// kubelet's `--node-ip`.
    kubelet: String,
    /// A master's: what is needed to write its manifests again, and which etcds to ask.
    control_plane: Option<ControlPlane>,
}

#[derive(Debug)]
struct ControlPlane {
    config: String,
    others: Vec<Master>,
}

impl NodeIp {
    pub fn new(root: &Root, node: &NodeConfig, image: &ImageInfo) -> Result<Self> {
        let address = node
            .addresses
            .first()
            .context("the node file has no address")?
            .addr();
        let control_plane = match node.role {
            Role::Node => None,
            Role::Master0 | Role::Master => {
                let as_first = NodeConfig {
                    role: Role::Master0,
                    ..node.clone()
                };
                let others = node
                    .masters
                    .iter()
                    .filter(|master| master.name != node.name);
                Some(ControlPlane {
                    config: KubeadmConfig::new(root, &as_first, image)?.into_text(),
                    others: others.cloned().collect(),
                })
            }
        };
        Ok(Self {
            root: root.clone(),
            name: node.name.clone(),
            address,
            kubelet: config::node_ip(node)?,
            control_plane,
        })
    }

    fn text(&self, path: &str) -> Result<Option<String>> {
        let bytes = self.root.read(path)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Does the static pod `name`, if there is one, have `flag` with this host's address?
    fn manifest_has(&self, name: &str, flag: &str) -> Result<bool> {
        let text = self.text(&format!("{MANIFESTS}/{name}.yaml"))?;
        Ok(text.is_none_or(|text| {
            text.lines()
                .any(|line| line.trim().trim_start_matches("- ") == flag)
        }))
    }

    fn peer(&self) -> String {
        format!("https://{}", endpoint(self.address, PEER_PORT))
    }

    fn etcd_is_right(&self) -> Result<bool> {
        self.manifest_has(
            "etcd",
            &format!("--initial-advertise-peer-urls={}", self.peer()),
        )
    }

    fn apiserver_is_right(&self) -> Result<bool> {
        self.manifest_has(
            "kube-apiserver",
            &format!("--advertise-address={}", self.address),
        )
    }

    /// Tells etcd, through the first master of the list that answers, where this host's member is
    /// from now on.
    fn update_member(&self, masters: &[Master]) -> Result<()> {
        let mut answers = Vec::new();
        for master in masters {
            let etcd = Etcd::new(&self.root, &endpoint(master.address, CLIENT_PORT))?;
            match etcd.set_peer(&self.name, &self.peer()) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    answers.push(format!("{} ({}) says {error:#}", master.name, etcd.base()));
                }
            }
        }
        bail!("{}", answers.join("; "))
    }

    fn move_control_plane(&self, plane: &ControlPlane, report: &mut Reporter) -> Result<()> {
        self.root
            .write(CONFIG, plane.config.as_bytes(), Attributes::mode(0o600))?;
        let config = format!("--config={CONFIG}");
        if !self.etcd_is_right()? {
            if !plane.others.is_empty() {
                let target = format!(
                    "an etcd that takes {} for member {}",
                    self.peer(),
                    self.name
                );
                until(&target, Backoff::new(&self.name), report, || {
                    self.update_member(&plane.others)
                });
            }
            command::run("kubeadm", &["init", "phase", "etcd", "local", &config])?;
        }
        if !self.apiserver_is_right()? {
            command::run(
                "kubeadm",
                &["init", "phase", "control-plane", "all", &config],
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for NodeIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "update the node IP to {}", self.address)
    }
}

impl Step for NodeIp {
    fn name(&self) -> &'static str {
        "node-ip"
    }

    /// Also on a host that has not joined yet: nothing there remembers an address.
    fn is_done(&self) -> Result<bool> {
        let flags = self.text(KUBELET_FLAGS)?;
        let kubelet = flags.is_none_or(|flags| with_node_ip(&flags, &self.kubelet) == flags);
        let plane =
            self.control_plane.is_none() || (self.etcd_is_right()? && self.apiserver_is_right()?);
        Ok(kubelet && plane)
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        if let Some(plane) = &self.control_plane {
            self.move_control_plane(plane, report)?;
        }
        if let Some(flags) = self.text(KUBELET_FLAGS)? {
            let flags = with_node_ip(&flags, &self.kubelet);
            self.root
                .write(KUBELET_FLAGS, flags.as_bytes(), Attributes::mode(0o644))?;
        }
        Ok(())
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

/// kubelet's flags with `--node-ip`, where it stands, changed to `address`.
fn with_node_ip(flags: &str, address: &str) -> String {
    let Some((before, rest)) = flags.split_once(NODE_IP) else {
        return flags.to_owned();
    };
    let end = rest
        .find(|c: char| c.is_whitespace() || c == '"')
        .unwrap_or(rest.len());
    format!("{before}{NODE_IP}{address}{}", &rest[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &str = "KUBELET_KUBEADM_ARGS=\"--network-plugin=cni --node-ip=192.168.7.1 --pod-infra-container-image=pause\"\n";

    fn master(root: &Root) -> NodeIp {
        NodeIp {
            root: root.clone(),
            name: "m1".into(),
            address: [192, 168, 7, 12].into(),
            kubelet: "192.168.7.12".into(),
            control_plane: Some(ControlPlane {
                config: String::new(),
                others: Vec::new(),
            }),
        }
    }

    #[test]
    fn kubelets_address_is_changed_wherever_it_stands() {
        let address = "192.168.7.12";
        assert_eq!(
            with_node_ip(FLAGS, address),
            FLAGS.replace("192.168.7.1 ", "192.168.7.12 ")
        );
        assert_eq!(
            with_node_ip("A=\"--node-ip=::1\"\n", address),
            "A=\"--node-ip=192.168.7.12\"\n"
        );
        assert_eq!(with_node_ip("A=\"\"\n", address), "A=\"\"\n");
    }

    #[test]
    fn done_before_joining_and_when_all_say_the_address() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let step = master(&root);
        assert!(step.is_done().unwrap());
        let write = |path: &str, text: &str| {
            root.write(path, text.as_bytes(), Attributes::mode(0o600))
                .unwrap()
        };
        write(KUBELET_FLAGS, FLAGS);
        assert!(!step.is_done().unwrap());
        write(KUBELET_FLAGS, &with_node_ip(FLAGS, &step.kubelet));
        assert!(step.is_done().unwrap());
        // The old address begins like the new one.
        let etcd = |address: &str| {
            format!("    - etcd\n    - --initial-advertise-peer-urls=https://{address}:2380\n")
        };
        write(&format!("{MANIFESTS}/etcd.yaml"), &etcd("192.168.7.1"));
        assert!(!step.is_done().unwrap());
        write(&format!("{MANIFESTS}/etcd.yaml"), &etcd("192.168.7.12"));
        let apiserver = |address: &str| format!("    - --advertise-address={address}\n");
        write(
            &format!("{MANIFESTS}/kube-apiserver.yaml"),
            &apiserver("192.168.7.123"),
        );
        assert!(!step.is_done().unwrap());
        write(
            &format!("{MANIFESTS}/kube-apiserver.yaml"),
            &apiserver("192.168.7.12"),
        );
        assert!(step.is_done().unwrap());
    }
}
