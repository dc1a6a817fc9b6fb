//! The steps of each role, as lists that one can read aloud.
//!
//! Conditions stand here, in the list, and not inside steps. Everything that can be wrong with a document or an image is
//! found while the list is made, before the first step changes anything.

use anyhow::{Context, Result, ensure};
use userdata::contract::{API_VERSION, IMAGE_FILE};
use userdata::image_info::ImageInfo;
use userdata::node_config::{NodeConfig, Role};

use crate::document::Host;
use crate::step::Step;
use crate::step::address::Address;
use crate::step::addresses::Addresses;
use crate::step::files::Files;
use crate::step::hooks::Hook;
use crate::step::hostname::Hostname;
use crate::step::hosts::Hosts;
use crate::step::init::KubeadmInit;
use crate::step::ipvs::Ipvs;
use crate::step::join::KubeadmJoin;
use crate::step::join_master::JoinControlPlane;
use crate::step::kernel::Kernel;
use crate::step::kubeadm_config::KubeadmConfig;
use crate::step::lvscare::Lvscare;
use crate::step::manifests::Manifests;
use crate::step::network::Network;
use crate::step::node_ready::NodeReady;
use crate::step::ntp::Ntp;
use crate::step::scripts::Scripts;
use crate::step::unit::Unit;
use crate::step::users::Users;
use crate::system::files::Root;

type Steps = Vec<Box<dyn Step>>;

/// All steps for this host, in order.
pub fn steps(host: &Host, root: &Root) -> Result<Steps> {
    let mut steps = machine(host, root);
    if let Some(node) = &host.node {
        let image = image_file(root)?;
        steps.extend(Hook::find(root, "before-role").map(boxed));
        match node.role {
            Role::Master0 => steps.extend(master0(node, &image, root)?),
            Role::Master => steps.extend(master(host, node, &image, root)?),
            Role::Node => steps.extend(worker(node, &image, root)?),
        }
        steps.extend(Hook::find(root, "after-role").map(boxed));
    }
    Ok(steps)
}

/// What any cloud-config asks for.
fn machine(host: &Host, root: &Root) -> Steps {
    let mut steps: Steps = vec![boxed(Hostname {
        root: root.clone(),
        name: host.hostname.clone(),
    })];
    if !host.network.files.is_empty() {
        steps.push(boxed(Network {
            root: root.clone(),
            network: host.network.clone(),
        }));
    }
    if !host.network.wanted.is_empty() {
        steps.push(boxed(Addresses {
            wanted: host.network.wanted.clone(),
        }));
    }
    // Users before files: a file may belong to one of them.
    if !host.users.is_empty() {
        steps.push(boxed(Users {
            root: root.clone(),
            users: host.users.clone(),
        }));
    }
    if !host.ntp.is_empty() {
        steps.push(boxed(Ntp {
            root: root.clone(),
            servers: host.ntp.clone(),
        }));
    }
    if !host.files.is_empty() {
        steps.push(boxed(Files {
            root: root.clone(),
            files: host.files.clone(),
        }));
    }
    steps.push(boxed(Hosts::new(root, host)));
    let scripts = [
        ("bootcmd", &host.boot_commands, false),
        ("runcmd", &host.run_commands, true),
    ];
    for (name, commands, once) in scripts {
        if !commands.is_empty() {
            steps.push(boxed(Scripts {
                root: root.clone(),
                name,
                commands: commands.clone(),
                once,
            }));
        }
    }
    steps
}

fn master0(node: &NodeConfig, image: &ImageInfo, root: &Root) -> Result<Steps> {
    Ok(vec![
        boxed(Kernel::new(node)),
        boxed(Unit {
            name: "containerd",
            unit: "containerd.service",
        }),
        boxed(KubeadmConfig::new(root, node, image)?),
        boxed(Address::new(root, node, image)?),
        boxed(KubeadmInit::new(root, node, image)?),
        // kubeadm has started it, on the first boot; it is never enabled, so that it never runs unconfigured.
        boxed(Unit {
            name: "kubelet",
            unit: "kubelet.service",
        }),
        boxed(Manifests::new(root, node)?),
        boxed(NodeReady::on_master(root, node)?),
    ])
}

fn master(host: &Host, node: &NodeConfig, image: &ImageInfo, root: &Root) -> Result<Steps> {
    Ok(vec![
        boxed(Kernel::new(node)),
        boxed(Unit {
            name: "containerd",
            unit: "containerd.service",
        }),
        boxed(KubeadmConfig::new(root, node, image)?),
        boxed(Address::new(root, node, image)?),
        boxed(JoinControlPlane::new(root, host, node, image)?),
        boxed(Unit {
            name: "kubelet",
            unit: "kubelet.service",
        }),
        boxed(NodeReady::on_master(root, node)?),
    ])
}

fn worker(node: &NodeConfig, image: &ImageInfo, root: &Root) -> Result<Steps> {
    Ok(vec![
        boxed(Kernel::new(node)),
        boxed(Unit {
            name: "containerd",
            unit: "containerd.service",
        }),
        // At every boot, and before anything that asks the apiserver: kubelet knows no other way there.
        boxed(Ipvs::new(node)?),
        boxed(KubeadmConfig::new(root, node, image)?),
        // Before kubeadm starts kubelet, so that the rules are kept from then on.
        boxed(Lvscare::new(root, node, image)?),
        boxed(Address::new(root, node, image)?),
        boxed(KubeadmJoin::new(root, node, image)?),
        boxed(Unit {
            name: "kubelet",
            unit: "kubelet.service",
        }),
        boxed(NodeReady::on_node(root, node)),
    ])
}

fn image_file(root: &Root) -> Result<ImageInfo> {
    let bytes = root.read(IMAGE_FILE)?;
    let bytes =
        bytes.with_context(|| format!("`{IMAGE_FILE}` is missing: this is not a node image"))?;
    let image: ImageInfo =
        serde_json::from_slice(&bytes).with_context(|| format!("reading `{IMAGE_FILE}`"))?;
    ensure!(
        image.api_version == API_VERSION,
        "`{IMAGE_FILE}` has version `{}`; expected `{API_VERSION}`",
        image.api_version
    );
    Ok(image)
}

fn boxed(step: impl Step + 'static) -> Box<dyn Step> {
    Box::new(step)
}
