//! The baseline of benchmarks: the same machines without Firstlight, set up by an administrator's
//! scripts and kubeadm.
//!
//! Image, kernel, programs and component settings are the same. What imagegen does at build time
//! happens at boot: the scripts import the images into an empty store, and kubeadm creates the
//! certificates. Hosts join with a token and uploaded certificates.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use build_tools::progress::Progress;

use crate::cluster::{Cluster, Member, READY_DEADLINE};
use crate::host::run_dir::RunDir;
use crate::host::{Host, artifacts, process};
use crate::machine::disk;
use crate::machine::journal::RecordMatch;
use crate::machine::qemu::DiskFile;
use crate::machine::smbios::credential;
use crate::machine::vm::Vm;

/// MESSAGE_ID: the node is Ready.
pub const READY: &str = "5d3e4c0b6c0a4b6f9d3c2f6c2f1c7a10";
/// MESSAGE_ID: a script has failed.
pub const FAILED: &str = "5d3e4c0b6c0a4b6f9d3c2f6c2f1c7a11";
/// MESSAGE_ID: the machine can join.
pub const PREPARED: &str = "5d3e4c0b6c0a4b6f9d3c2f6c2f1c7a12";

/// Every script starts with this; its variables come from [`assignments`].
const REPORT: &str = include_str!("report.sh");
const PREPARE: &str = include_str!("prepare.sh");
const INIT: &str = include_str!("init.sh");
const JOIN: &str = include_str!("join.sh");

const DOMAIN: &str = "apiserver.cluster.local";
/// The key that encrypts the uploaded certificates: any 32 bytes.
const CERTIFICATE_KEY: &str = "6d1f0c8a5b3e4f7d9a2c8e1b7f5d3a906d1f0c8a5b3e4f7d9a2c8e1b7f5d3a90";

/// The configuration of kubeadm with which both ways form the same cluster.
#[derive(Debug, Clone)]
pub struct KubeadmSetup {
    /// The file for `kubeadm --config`.
    config: String,
    /// Options that skip the add-ons whose images the package does not contain.
    skip: String,
}

impl KubeadmSetup {
    /// Reads the configuration with which firstboot has run kubeadm on `master0`.
    pub fn of(master0: &Vm) -> Result<Self> {
        let image: serde_json::Value =
            serde_json::from_str(&master0.shell("cat /usr/share/firstlight/image.json")?)?;
        let missing = image["missing_addons"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str());
        Ok(Self {
            config: master0.shell("cat /var/lib/firstlight/kubeadm.yaml")?,
            skip: missing
                .map(|addon| format!("--skip-phases=addon/{addon}"))
                .collect::<Vec<_>>()
                .join(" "),
        })
    }

    /// The configuration with the key that encrypts uploaded certificates.
    fn with_upload(&self) -> Result<String> {
        let kind = "\"kind\": \"InitConfiguration\",";
        ensure!(
            self.config.contains(kind),
            "the configuration of kubeadm has no {kind}"
        );
        let key = format!("{kind} \"certificateKey\": \"{CERTIFICATE_KEY}\",");
        Ok(self.config.replace(kind, &key))
    }
}

/// A disk with the package's image archives, in place of a copy that an administrator makes.
pub fn images_disk(host: &Host, run_dir: &RunDir) -> Result<DiskFile> {
    let images = artifacts::package(host.cache(), &Progress::stderr())?.join("images");
    let mut size = 64 << 20;
    for entry in
        std::fs::read_dir(&images).with_context(|| format!("reading `{}`", images.display()))?
    {
        size += entry?.metadata()?.len() * 11 / 10;
    }
    let disk = disk::empty(run_dir, "images", size)?;
    let mut mke2fs = host.tools().command("sbin/mke2fs", None);
    process::run(
        mke2fs
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .args([&images, &disk.path]),
    )?;
    Ok(DiskFile {
        read_only: true,
        ..disk
    })
}

/// Configures a machine, which is off, to set up a cluster of one host when it boots.
pub fn single_host(member: &mut Member, images: &DiskFile, setup: &KubeadmSetup) {
    let hosts = format!("{} {} {DOMAIN}", member.address, member.name);
    let variables = [
        ("HOSTS", hosts.as_str()),
        ("KUBEADM_CONFIG", &STANDARD.encode(&setup.config)),
        ("SKIP_PHASES", &setup.skip),
        ("UPLOAD_CERTS", ""),
    ];
    run_at_boot(
        member,
        images,
        &variables,
        &format!("{INIT}{}", report(READY)),
    );
}

/// Configures the machines of a cluster, which are off: when they boot, the first one initialises
/// the control plane and the others prepare to join. [`join`] is the rest.
pub fn cluster(cluster: &mut Cluster, images: &DiskFile, setup: &KubeadmSetup) -> Result<()> {
    let mut hosts: Vec<_> = cluster
        .members
        .iter()
        .map(|member| format!("{} {}", member.address, member.name))
        .collect();
    hosts[0] = format!("{} {DOMAIN}", hosts[0]);
    let hosts = hosts.join("\n");
    let config = STANDARD.encode(setup.with_upload()?);
    let variables = [
        ("HOSTS", hosts.as_str()),
        ("KUBEADM_CONFIG", &config),
        ("SKIP_PHASES", &setup.skip),
        ("UPLOAD_CERTS", "--upload-certs"),
    ];
    for (number, member) in cluster.members.iter_mut().enumerate() {
        if number == 0 {
            let rest = format!("{INIT}{}", report(READY));
            run_at_boot(member, images, &variables, &rest);
        } else {
            run_at_boot(member, images, &variables[..1], &report(PREPARED));
        }
    }
    Ok(())
}

/// Joins a prepared machine, and waits until its node is Ready.
pub fn join(master0: &Vm, member: &Member, vm: &Vm) -> Result<()> {
    wait(vm, PREPARED)?;
    let command = master0.shell(
        "kubeadm token create --print-join-command --kubeconfig /etc/kubernetes/admin.conf",
    )?;
    let control_plane = if member.is_control_plane {
        format!(
            "--control-plane --certificate-key {CERTIFICATE_KEY} --apiserver-advertise-address {}",
            member.address
        )
    } else {
        String::new()
    };
    let script = join_script(command.trim(), &control_plane, &member.name);
    vm.shell(&format!(
        "echo {} | base64 -d >/run/join.sh; \
         systemd-run --quiet --unit=baseline-join sh /run/join.sh",
        STANDARD.encode(script)
    ))?;
    wait(vm, READY)
}

/// Waits until a machine has reported `id`. A report of failure ends the wait.
pub fn wait(vm: &Vm, id: &'static str) -> Result<()> {
    vm.wait_for(
        &RecordMatch::id(id),
        &[RecordMatch::id(FAILED)],
        READY_DEADLINE * 3,
    )?;
    Ok(())
}

fn join_script(command: &str, control_plane: &str, name: &str) -> String {
    let variables = [
        ("FAILED", FAILED),
        ("JOIN_COMMAND", command),
        ("CONTROL_PLANE", control_plane),
        ("NAME", name),
    ];
    format!("{}{REPORT}{JOIN}{}", assignments(&variables), report(READY))
}

/// Replaces firstboot and its document by a script.
fn run_at_boot(member: &mut Member, images: &DiskFile, variables: &[(&str, &str)], rest: &str) {
    let address = member.address.to_string();
    let host = [
        ("FAILED", FAILED),
        ("NAME", &member.name),
        ("MAC", &member.machine.nics[0].mac),
        ("ADDRESS", &address),
    ];
    let variables = assignments(&[&host, variables].concat());
    let script = format!("{variables}{REPORT}{PREPARE}{rest}");
    let unit = "[Unit]\nAfter=multi-user.target\nConditionPathExists=!/etc/initrd-release\n\
                [Service]\nType=oneshot\nExecStart=/bin/sh ${CREDENTIALS_DIRECTORY}/baseline\n\
                ImportCredential=baseline\nTimeoutStartSec=infinity\n";
    member.machine.smbios = vec![
        // An empty unit is masked.
        credential("systemd.extra-unit.firstboot.service", b""),
        credential("systemd.extra-unit.baseline.service", unit.as_bytes()),
        credential(
            "systemd.unit-dropin.multi-user.target~baseline",
            b"[Unit]\nWants=baseline.service\n",
        ),
        credential("baseline", script.as_bytes()),
    ];
    member.machine.disks.pop();
    member.machine.disks.push(images.clone());
}

/// Shell variables, quoted.
fn assignments(variables: &[(&str, &str)]) -> String {
    let quoted = |value: &str| value.replace('\'', r"'\''");
    variables
        .iter()
        .map(|(name, value)| format!("{name}='{}'\n", quoted(value)))
        .collect()
}

/// A shell command that reports `id`.
fn report(id: &str) -> String {
    format!("report {id} done\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_key_is_in_the_init_configuration() -> Result<()> {
        let setup = KubeadmSetup {
            config: "{\n  \"kind\": \"ClusterConfiguration\"\n}\n---\n{\n  \"kind\": \"InitConfiguration\",\n  \"x\": 1\n}\n"
                .into(),
            skip: String::new(),
        };
        let text = setup.with_upload()?;
        let last = text.split("---\n").last().unwrap_or_default();
        let document: serde_json::Value = serde_json::from_str(last)?;
        assert_eq!(document["certificateKey"], CERTIFICATE_KEY);
        assert_eq!(CERTIFICATE_KEY.len(), 64, "AES-256, in hexadecimal");
        let none = KubeadmSetup {
            config: "{}".into(),
            ..setup
        };
        assert!(none.with_upload().is_err());
        Ok(())
    }

    #[test]
    fn scripts_have_valid_syntax_and_define_all_variables() -> Result<()> {
        let host = [
            ("FAILED", "1"),
            ("NAME", "m0"),
            ("MAC", "2"),
            ("ADDRESS", "3"),
        ];
        let cluster = [
            ("HOSTS", "it's\nm1"),
            ("KUBEADM_CONFIG", ""),
            ("SKIP_PHASES", ""),
        ];
        let variables = [&host[..], &cluster, &[("UPLOAD_CERTS", "")]].concat();
        let boot = assignments(&variables) + REPORT + PREPARE + INIT + &report(READY);
        for script in [boot, join_script("kubeadm join", "", "n0")] {
            for line in script.lines().filter(|line| !line.starts_with('#')) {
                for name in line.split('$').skip(1) {
                    let end = name.find(|c: char| !c.is_ascii_uppercase() && c != '_');
                    let name = &name[..end.unwrap_or(name.len())];
                    let defined = name.is_empty() || script.contains(&format!("{name}='"));
                    assert!(defined, "{name} in {line}");
                }
            }
            let mut shell = std::process::Command::new("sh");
            process::run(shell.args(["-n", "-c", &script]))?;
        }
        assert!(assignments(&cluster).starts_with("HOSTS='it'\\''s\nm1'\n"));
        Ok(())
    }
}
