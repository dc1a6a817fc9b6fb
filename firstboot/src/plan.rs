//! The steps of each role, in order.
//!
//! Conditions are in these lists, not inside steps. Building a list reports every mistake in a
//! document or image before the first step changes anything. The names are those of
//! `userdata::role`.

use anyhow::{Context, Result, ensure};
use userdata::contract::{API_VERSION, IMAGE_FILE};
use userdata::image_info::ImageInfo;
use userdata::node_config::{NodeConfig, Role};

use crate::extras::Extras;
use crate::host::Host;
use crate::step::Step;
use crate::step::addresses::Addresses;
use crate::step::cluster::Membership;
use crate::step::cluster::accepted_clients::AcceptedClients;
use crate::step::cluster::apiserver_ready::ApiserverReady;
use crate::step::cluster::client_authority::ClientAuthority;
use crate::step::cluster::credentials::Credentials;
use crate::step::cluster::domain_local::DomainLocal;
use crate::step::cluster::etcd_member::EtcdMember;
use crate::step::cluster::init_finish::InitFinish;
use crate::step::cluster::init_guard::InitGuard;
use crate::step::cluster::ipvs::Ipvs;
use crate::step::cluster::join_finish::JoinFinish;
use crate::step::cluster::kubeadm_config::KubeadmConfig;
use crate::step::cluster::kubelet_start::{ControlPlaneKubelet, WorkerKubelet};
use crate::step::cluster::lvscare_pod::Lvscare;
use crate::step::cluster::manifests::Manifests;
use crate::step::cluster::node_ip::NodeIp;
use crate::step::cluster::node_ready::NodeReady;
use crate::step::cluster::node_registered::NodeRegistered;
use crate::step::cluster::static_pods::StaticPods;
use crate::step::cluster::system_pods::SystemPods;
use crate::step::files::Files;
use crate::step::hooks::Hook;
use crate::step::hostname::{self, Hostname};
use crate::step::hosts::Hosts;
use crate::step::kernel::Kernel;
use crate::step::network::Network;
use crate::step::ntp::Ntp;
use crate::step::recovery_key::RecoveryKey;
use crate::step::scripts::Scripts;
use crate::step::service_routes;
use crate::step::ssh::Ssh;
use crate::step::unit::Unit;
use crate::step::users::{self, Users};
use crate::system::files::Root;

pub(crate) type Steps = Vec<Box<dyn Step>>;

/// All steps for this host, in order.
pub fn steps(host: &Host, root: &Root) -> Result<Steps> {
    users(host, root).check()?;
    extras(host, root).check()?;
    let names: Vec<String> = host.users.iter().map(|user| user.name.clone()).collect();
    let groups = users::made_groups(&host.users, &host.groups);
    files(host, root).check(&names, &groups)?;
    let mut steps = machine(host, root)?;
    if let Some(node) = &host.node {
        ensure!(
            !host.files.iter().any(|file| file.path == hostname::PATH),
            "write_files: `{}` holds the node name; set it with `hostname`",
            hostname::PATH
        );
        let image = image_file(root)?;
        steps.extend(Hook::find(root, "before-role", node, &image)?.map(boxed));
        match node.role {
            Role::Master0 => steps.extend(first_control_plane(node, &image, root)?),
            Role::Master => steps.extend(joining_control_plane(host, node, &image, root)?),
            Role::Node => steps.extend(worker(node, &image, root)?),
        }
        steps.extend(Hook::find(root, "after-role", node, &image)?.map(boxed));
    }
    steps.extend(extras(host, root).last());
    Ok(steps)
}

/// The step that writes the files of the document.
pub fn files(host: &Host, root: &Root) -> Files {
    Files {
        root: root.clone(),
        files: host.files.clone(),
        instance: host.instance.clone(),
    }
}

fn users(host: &Host, root: &Root) -> Users {
    Users {
        root: root.clone(),
        users: host.users.clone(),
        groups: host.groups.clone(),
        passwords: host.passwords.clone(),
        ssh_passwords: host.ssh_passwords,
        host_keys: host.host_keys.clone(),
        instance: host.instance.clone(),
    }
}

fn extras<'a>(host: &'a Host, root: &'a Root) -> Extras<'a> {
    Extras { host, root }
}

/// The steps of every host; each only if the document needs it.
fn machine(host: &Host, root: &Root) -> Result<Steps> {
    let mut steps = Steps::new();
    if !host.keeps_hostname {
        steps.push(boxed(Hostname {
            root: root.clone(),
            name: host.hostname.clone(),
            create_file: host.creates_hostname_file,
            // The name of a node is the name of its machine.
            once: host.node.is_none().then(|| host.instance.clone()),
        }));
    }
    let mut network = host.network.clone();
    if let Some(node) = &host.node {
        network.files.extend(service_routes::files(node));
    }
    let has_files = !network.files.is_empty();
    let network = Network {
        root: root.clone(),
        network,
    };
    if has_files || network.has_stale_files()? {
        steps.push(boxed(network));
    }
    if !host.network.addresses.is_empty() {
        steps.push(boxed(Addresses {
            desired: host.network.addresses.clone(),
        }));
    }
    // Users before files: a user may own a file.
    let passwords = host.ssh_passwords || !host.passwords.users.is_empty();
    let accounts = passwords || !host.users.is_empty() || !host.groups.is_empty();
    if accounts || root.exists(users::SSHD_CONFIG) {
        steps.push(boxed(users(host, root)));
    }
    if !host.ntp.is_empty() {
        steps.push(boxed(Ntp {
            root: root.clone(),
            servers: host.ntp.clone(),
        }));
    }
    let extras = extras(host, root);
    steps.extend(extras.before_files());
    if !host.files.is_empty() {
        steps.push(boxed(files(host, root)));
    }
    steps.extend(RecoveryKey::find(root, host)?.map(boxed));
    steps.push(boxed(Hosts::new(root, host)));
    steps.extend(extras.after_files());
    // After files, which may configure sshd; before commands, so that a hanging one can be
    // debugged.
    if users::wants_ssh(&host.users, host.ssh_passwords) {
        steps.push(boxed(Ssh { root: root.clone() }));
    }
    let scripts = [
        ("bootcmd", &host.boot_commands, false),
        ("runcmd", &host.run_commands, true),
    ];
    for (name, commands, once) in scripts {
        if once {
            steps.extend(extras.scripts());
        }
        if !commands.is_empty() {
            steps.push(boxed(Scripts {
                root: root.clone(),
                name,
                commands: commands.clone(),
                once,
                instance: host.instance.clone(),
            }));
        }
    }
    Ok(steps)
}

fn first_control_plane(node: &NodeConfig, image: &ImageInfo, root: &Root) -> Result<Steps> {
    let membership = Membership::Initialised;
    Ok(vec![
        boxed(Kernel::new(node)),
        boxed(Unit {
            name: "runtime",
            unit: image.runtime.unit(),
        }),
        boxed(KubeadmConfig::new(root, node, image)?),
        boxed(NodeIp::new(root, node, image)?),
        boxed(InitGuard::new(root, node)?),
        boxed(StaticPods::new(root, node, image, membership)?),
        boxed(ClientAuthority::new(root, node, image)?),
        boxed(ApiserverReady::new(root, node, membership)?),
        boxed(NodeRegistered::new(root, node, image, membership)?),
        boxed(InitFinish::new(root, node, image)?),
        boxed(Credentials::new(root, node)),
        // On the first boot kubeadm has started it. It is never enabled, so that it does not run
        // unconfigured.
        boxed(Unit {
            name: "kubelet",
            unit: "kubelet.service",
        }),
        boxed(Manifests::new(root, node)?),
        boxed(NodeReady::on_master(root, node)?),
        boxed(AcceptedClients::new(root, node)?),
        boxed(SystemPods::new(root, node)?),
    ])
}

fn joining_control_plane(
    host: &Host,
    node: &NodeConfig,
    image: &ImageInfo,
    root: &Root,
) -> Result<Steps> {
    let membership = Membership::ControlPlane;
    Ok(vec![
        boxed(Kernel::new(node)),
        boxed(Unit {
            name: "runtime",
            unit: image.runtime.unit(),
        }),
        boxed(KubeadmConfig::new(root, node, image)?),
        boxed(NodeIp::new(root, node, image)?),
        boxed(ControlPlaneKubelet::new(root, host, node, image)?),
        boxed(EtcdMember::new(root, host, node, image)?),
        boxed(StaticPods::new(root, node, image, membership)?),
        boxed(ClientAuthority::new(root, node, image)?),
        boxed(ApiserverReady::new(root, node, membership)?),
        boxed(DomainLocal::new(root, host, node)?),
        boxed(NodeRegistered::new(root, node, image, membership)?),
        boxed(JoinFinish::new(root, image)),
        boxed(Credentials::new(root, node)),
        boxed(Unit {
            name: "kubelet",
            unit: "kubelet.service",
        }),
        boxed(NodeReady::on_master(root, node)?),
        boxed(AcceptedClients::new(root, node)?),
    ])
}

fn worker(node: &NodeConfig, image: &ImageInfo, root: &Root) -> Result<Steps> {
    Ok(vec![
        boxed(Kernel::new(node)),
        boxed(Unit {
            name: "runtime",
            unit: image.runtime.unit(),
        }),
        // At every boot, before anything that needs the apiserver: kubelet has no other route to
        // it.
        boxed(Ipvs::new(node)?),
        boxed(KubeadmConfig::new(root, node, image)?),
        // Before kubeadm starts kubelet, which then runs lvscare.
        boxed(Lvscare::new(root, node, image)?),
        boxed(NodeIp::new(root, node, image)?),
        boxed(WorkerKubelet::new(root, node, image)?),
        boxed(NodeRegistered::new(root, node, image, Membership::Worker)?),
        boxed(Credentials::new(root, node)),
        boxed(Unit {
            name: "kubelet",
            unit: "kubelet.service",
        }),
        boxed(NodeReady::on_node(root, node)),
    ])
}

pub(crate) fn image_file(root: &Root) -> Result<ImageInfo> {
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

pub(crate) fn boxed(step: impl Step + 'static) -> Box<dyn Step> {
    Box::new(step)
}
