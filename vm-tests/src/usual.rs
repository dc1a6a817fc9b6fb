//! The usual way to a Kubernetes host, for benchmarks: what an administrator's scripts do on a machine without a document.
//!
//! The same image, kernel, binaries and component settings; only what imagegen does at build time is done at boot: images
//! are imported into an empty store, and kubeadm makes the certificates. Hosts join by token and uploaded certificates.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use build_tools::progress::Progress;

use crate::artifacts;
use crate::cluster::{Cluster, Member, READY_DEADLINE};
use crate::credential::credential;
use crate::disk;
use crate::host::Host;
use crate::journal::Want;
use crate::qemu::DiskFile;
use crate::run::Run;
use crate::tools;
use crate::vm::Vm;

/// A machine is what its script was to make it.
pub const READY: &str = "5d3e4c0b6c0a4b6f9d3c2f6c2f1c7a10";
pub const FAILED: &str = "5d3e4c0b6c0a4b6f9d3c2f6c2f1c7a11";
/// A machine that is to join can be told to.
pub const PREPARED: &str = "5d3e4c0b6c0a4b6f9d3c2f6c2f1c7a12";

/// What a script begins with: its failure is said too.
const HEAD: &str = r#"trap 's=$?; [ $s = 0 ] || printf "MESSAGE_ID=5d3e4c0b6c0a4b6f9d3c2f6c2f1c7a11\nMESSAGE=usual way failed: %s\n" $s | logger --journald' EXIT
set -ex
"#;

/// Name, network, runtime, images.
const PREPARE: &str = r#"hostnamectl hostname @NAME@ || hostname @NAME@
card=$(basename "$(dirname "$(grep -l '@MAC@' /sys/class/net/*/address)")")
ip link set "$card" up
ip addr add @ADDRESS@/24 dev "$card"
cat >>/etc/hosts <<'END'
@HOSTS@
END
sed 's|^root = .*|root = "/var/lib/containerd-usual"|' /etc/containerd/config.toml >/run/containerd.toml
grep -q containerd-usual /run/containerd.toml
mount --bind /run/containerd.toml /etc/containerd/config.toml
systemctl restart containerd
mkdir -p /run/images
mount -o ro /dev/vdb /run/images
for archive in /run/images/*.tar; do ctr --namespace k8s.io images import "$archive"; done
# An image the package lacks and nothing here runs: kubeadm's preflight would try to pull it, over and over.
ctr --namespace k8s.io images tag k8s.gcr.io/pause:3.2 k8s.gcr.io/coredns:1.7.0
systemctl enable kubelet || true
"#;

const INIT: &str = r#"base64 -d >/run/kubeadm.yaml <<'END'
@KUBEADM@
END
# The image has no kernel configuration to verify.
kubeadm init --config /run/kubeadm.yaml @SKIP@ --skip-token-print --ignore-preflight-errors=SystemVerification @UPLOAD@
export KUBECONFIG=/etc/kubernetes/admin.conf
kubectl apply -f /usr/share/firstlight/conf/net
kubectl wait --for=condition=Ready "node/@NAME@" --timeout=1800s
"#;

/// Which the administrator starts by hand, one host after another.
const JOIN: &str = r#"join() { @JOIN@ @CONTROL_PLANE@ --ignore-preflight-errors=SystemVerification --node-name @NAME@ --cri-socket /run/containerd/containerd.sock "$@"; }
export KUBECONFIG=@KUBECONFIG@
@PHASES@
kubectl wait --for=condition=Ready "node/@NAME@" --timeout=1800s
"#;

/// Until kubelet 1.20 has measured its disk and said so, it refuses etcd's pod, which asks for disk, and for good. kubeadm
/// does not wait for that; where it comes first, the cluster has two members, one of which never starts, and no quorum any
/// more (seen here).
const MASTER_PHASES: &str = r"join --skip-phases=control-plane-join
until kubectl get 'node/@NAME@' -o 'jsonpath={.status.allocatable.ephemeral-storage}' | grep .; do sleep 5; done
join --skip-phases=preflight,control-plane-prepare,check-etcd,kubelet-start";

const DOMAIN: &str = "apiserver.cluster.local";
/// By which the uploaded certificates are encrypted; any 32 bytes.
const CERTIFICATE_KEY: &str = "6d1f0c8a5b3e4f7d9a2c8e1b7f5d3a906d1f0c8a5b3e4f7d9a2c8e1b7f5d3a90";

/// How kubeadm is to be run, so that both ways make the same cluster.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Its configuration.
    kubeadm: String,
    /// The add-ons whose image the package does not hold.
    skip: String,
}

impl Recipe {
    /// What firstboot ran kubeadm with on a master0 of ours.
    pub fn of(master0: &Vm) -> Result<Self> {
        let image: serde_json::Value =
            serde_json::from_str(&master0.ok("cat /usr/share/firstlight/image.json")?)?;
        let missing = image["missing_addons"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str());
        Ok(Self {
            kubeadm: master0.ok("cat /var/lib/firstlight/kubeadm.yaml")?,
            skip: missing
                .map(|addon| format!("--skip-phases=addon/{addon}"))
                .collect::<Vec<_>>()
                .join(" "),
        })
    }

    /// With the key by which other masters will get its certificates.
    fn with_upload(&self) -> Result<String> {
        let kind = "\"kind\": \"InitConfiguration\",";
        ensure!(
            self.kubeadm.contains(kind),
            "kubeadm's configuration has no {kind}"
        );
        let key = format!("{kind} \"certificateKey\": \"{CERTIFICATE_KEY}\",");
        Ok(self.kubeadm.replace(kind, &key))
    }
}

/// The package's image archives on a disk, as an administrator would have copied them to the host.
pub fn images_disk(host: &Host, run: &Run) -> Result<DiskFile> {
    let images = artifacts::package(host.cache(), &Progress::stderr())?.join("images");
    let mut size = 64 << 20;
    for entry in
        std::fs::read_dir(&images).with_context(|| format!("reading `{}`", images.display()))?
    {
        size += entry?.metadata()?.len() * 11 / 10;
    }
    let disk = disk::empty(run, "images", size)?;
    let mut mke2fs = host.tools().command("sbin/mke2fs", None);
    tools::run(
        mke2fs
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .args([&images, &disk.path]),
    )?;
    Ok(DiskFile {
        read_only: true,
        ..disk
    })
}

/// Makes a machine that is off a control plane of its own, the usual way, when it is switched on.
pub fn alone(member: &mut Member, images: &DiskFile, recipe: &Recipe) {
    let hosts = format!("{} {} {DOMAIN}", member.address, member.name);
    let init = INIT
        .replace("@KUBEADM@", &STANDARD.encode(&recipe.kubeadm))
        .replace("@SKIP@", &recipe.skip)
        .replace("@UPLOAD@", "");
    run_at_boot(member, images, &hosts, &(init + &say(READY)));
}

/// Makes the machines of a cluster, which are off, initialise the first master and prepare the others, when they are
/// switched on. [`join`] is the rest.
pub fn cluster(cluster: &mut Cluster, images: &DiskFile, recipe: &Recipe) -> Result<()> {
    let mut hosts: Vec<_> = cluster
        .members
        .iter()
        .map(|member| format!("{} {}", member.address, member.name))
        .collect();
    hosts[0] = format!("{} {DOMAIN}", hosts[0]);
    let hosts = hosts.join("\n");
    let init = INIT
        .replace("@KUBEADM@", &STANDARD.encode(recipe.with_upload()?))
        .replace("@SKIP@", &recipe.skip)
        .replace("@UPLOAD@", "--upload-certs");
    for (number, member) in cluster.members.iter_mut().enumerate() {
        let rest = if number == 0 {
            format!("{init}{}", say(READY))
        } else {
            say(PREPARED)
        };
        run_at_boot(member, images, &hosts, &rest);
    }
    Ok(())
}

/// Joins a prepared machine and waits until its node is Ready.
pub fn join(master0: &Vm, member: &Member, vm: &Vm) -> Result<()> {
    wait(vm, PREPARED)?;
    let command = master0
        .ok("kubeadm token create --print-join-command --kubeconfig /etc/kubernetes/admin.conf")?;
    let (control_plane, phases, kubeconfig) = if member.is_master {
        (
            format!(
                "--control-plane --certificate-key {CERTIFICATE_KEY} --apiserver-advertise-address {}",
                member.address
            ),
            MASTER_PHASES,
            "/etc/kubernetes/admin.conf",
        )
    } else {
        (String::new(), "join", "/etc/kubernetes/kubelet.conf")
    };
    let script = JOIN
        .replace("@JOIN@", command.trim())
        .replace("@CONTROL_PLANE@", &control_plane)
        .replace("@KUBECONFIG@", kubeconfig)
        .replace("@PHASES@", phases)
        .replace("@NAME@", &member.name);
    let script = format!("{HEAD}{script}{}", say(READY));
    vm.ok(&format!(
        "echo {} | base64 -d >/run/join.sh; systemd-run --quiet --unit=usual-join sh /run/join.sh",
        STANDARD.encode(script)
    ))?;
    wait(vm, READY)
}

/// Waits until a machine says that it is what its script was to make it.
pub fn wait(vm: &Vm, id: &'static str) -> Result<()> {
    vm.wait_for(&Want::id(id), &[Want::id(FAILED)], READY_DEADLINE * 3)?;
    Ok(())
}

fn say(id: &str) -> String {
    format!("printf 'MESSAGE_ID={id}\\nMESSAGE=usual way\\n' | logger --journald\n")
}

/// In place of firstboot and its document.
fn run_at_boot(member: &mut Member, images: &DiskFile, hosts: &str, rest: &str) {
    let script = format!("{HEAD}{PREPARE}{rest}")
        .replace("@HOSTS@", hosts)
        .replace("@NAME@", &member.name)
        .replace("@MAC@", &member.machine.nics[0].mac)
        .replace("@ADDRESS@", &member.address.to_string());
    let unit = "[Unit]\nAfter=multi-user.target\nConditionPathExists=!/etc/initrd-release\n[Service]\nType=oneshot\n\
                ExecStart=/bin/sh ${CREDENTIALS_DIRECTORY}/usual\nImportCredential=usual\nTimeoutStartSec=infinity\n";
    member.machine.smbios = vec![
        // An empty unit is a masked one.
        credential("systemd.extra-unit.firstboot.service", b""),
        credential("systemd.extra-unit.usual.service", unit.as_bytes()),
        credential(
            "systemd.unit-dropin.multi-user.target~usual",
            b"[Unit]\nWants=usual.service\n",
        ),
        credential("usual", script.as_bytes()),
    ];
    member.machine.disks.pop();
    member.machine.disks.push(images.clone());
}

/// How often a benchmark is to be run: `FIRSTLIGHT_ROUNDS`, else 3.
pub fn rounds() -> usize {
    let wanted = std::env::var("FIRSTLIGHT_ROUNDS").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Zero of none.
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Of the medians.
pub fn ratio(of: &[Duration], to: &[Duration]) -> String {
    if of.is_empty() || to.is_empty() {
        return "not measured".to_owned();
    }
    format!("{:.2}", median(of).as_secs_f64() / median(to).as_secs_f64())
}

/// `median (lowest-highest)`.
pub fn spread(times: &[Duration]) -> String {
    let (Some(least), Some(most)) = (times.iter().min(), times.iter().max()) else {
        return "not measured".to_owned();
    };
    let [median, least, most] = [median(times), *least, *most].map(|time| time.as_secs_f64());
    format!("{median:.1} s ({least:.1}-{most:.1})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_key_goes_into_the_right_document() -> Result<()> {
        let recipe = Recipe {
            kubeadm: "{\n  \"kind\": \"ClusterConfiguration\"\n}\n---\n{\n  \"kind\": \"InitConfiguration\",\n  \"x\": 1\n}\n"
                .into(),
            skip: String::new(),
        };
        let text = recipe.with_upload()?;
        let last = text.split("---\n").last().unwrap_or_default();
        let document: serde_json::Value = serde_json::from_str(last)?;
        assert_eq!(document["certificateKey"], CERTIFICATE_KEY);
        assert_eq!(CERTIFICATE_KEY.len(), 64, "AES-256, in hexadecimal");
        let none = Recipe {
            kubeadm: "{}".into(),
            ..recipe
        };
        assert!(none.with_upload().is_err());
        Ok(())
    }
}
