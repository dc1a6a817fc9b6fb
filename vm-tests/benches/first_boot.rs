//! Power-on to Ready: ours against the same machine the usual way, both in one run.
//!
//! The usual way has the same image, kernel, binaries and component settings; it only does at boot what imagegen does
//! at build time: images are imported into an empty store, and kubeadm makes the certificates.
//!
//! `cargo bench -p vm-tests` ; `FIRSTLIGHT_ROUNDS` sets the number of rounds (3).

use std::time::Duration;

use anyhow::{Context, Result};
use firstboot::journal::{KUBEADM_STARTED, field};
use vm_tests::artifacts::{Output, Programs, topology};
use vm_tests::cluster::{Cluster, READY_DEADLINE, wait_ready};
use vm_tests::credential::credential;
use vm_tests::disk;
use vm_tests::host::Host;
use vm_tests::journal::Want;
use vm_tests::kube;
use vm_tests::qemu::DiskFile;
use vm_tests::run::Run;
use vm_tests::tools;

/// What the usual way says when it is done; and when it fails.
const USUAL_READY: &str = "5d3e4c0b6c0a4b6f9d3c2f6c2f1c7a10";
const USUAL_FAILED: &str = "5d3e4c0b6c0a4b6f9d3c2f6c2f1c7a11";

/// What a host's scripts do on the first boot of a machine without a baked store, with kubeadm's own certificates.
const USUAL: &str = r#"#!/bin/sh
trap 's=$?; [ $s = 0 ] || printf "MESSAGE_ID=5d3e4c0b6c0a4b6f9d3c2f6c2f1c7a11\nMESSAGE=usual way failed: %s\n" $s | logger --journald' EXIT
set -ex
hostnamectl hostname @NAME@ || hostname @NAME@
card=$(basename "$(dirname "$(grep -l '@MAC@' /sys/class/net/*/address)")")
ip link set "$card" up
ip addr add @ADDRESS@/24 dev "$card"
echo '@ADDRESS@ @NAME@ apiserver.cluster.local' >>/etc/hosts
sed 's|^version.*|&\nroot = "/var/lib/containerd-usual"|' /etc/containerd/config.toml >/run/containerd.toml
mount --bind /run/containerd.toml /etc/containerd/config.toml
systemctl restart containerd
mkdir -p /run/images
mount -o ro /dev/vdb /run/images
for archive in /run/images/*.tar; do ctr --namespace k8s.io images import "$archive"; done
base64 -d >/run/kubeadm.yaml <<'END'
@KUBEADM@
END
systemctl enable kubelet || true
kubeadm init --config /run/kubeadm.yaml @SKIP@ --skip-token-print
export KUBECONFIG=/etc/kubernetes/admin.conf
kubectl apply -f /usr/share/firstlight/conf/net
kubectl wait --for=condition=Ready "node/@NAME@" --timeout=1800s
printf 'MESSAGE_ID=5d3e4c0b6c0a4b6f9d3c2f6c2f1c7a10\nMESSAGE=usual way ready\n' | logger --journald
"#;

fn main() -> Result<()> {
    // `cargo test --benches` runs this too, without `--bench`; a benchmark is no test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let rounds: usize = std::env::var("FIRSTLIGHT_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(3);
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run = Run::new("first-boot-bench")?;
    let images = images_disk(&host, &run)?;
    let (mut ours, mut usual) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let (time, recipe) = our_way(&host, &output)?;
        println!("round {round}: ours {:.1} s", time.as_secs_f64());
        ours.push(time);
        let time = usual_way(&host, &output, &images, &recipe)?;
        println!("round {round}: the usual way {:.1} s", time.as_secs_f64());
        usual.push(time);
    }
    println!(
        "power-on to Ready ({:?}, wall clock, {rounds} rounds; median, lowest-highest)",
        host.accel()
    );
    println!("  ours           {}", spread(&mut ours));
    println!("  the usual way  {}", spread(&mut usual));
    println!(
        "  ratio          {:.2}",
        median(&ours).as_secs_f64() / median(&usual).as_secs_f64()
    );
    print_build(&output)?;
    run.passed();
    Ok(())
}

/// How the usual way is to run kubeadm, so that both make the same cluster.
#[derive(Debug)]
struct Recipe {
    /// Its configuration, base64.
    kubeadm: String,
    /// The add-ons whose image the package does not hold.
    skip: String,
}

/// Boots with a document; returns the time and what firstboot ran kubeadm with.
fn our_way(host: &Host, output: &Output) -> Result<(Duration, Recipe)> {
    let run = Run::new("bench-ours")?;
    let cluster = Cluster::new(host, &run, output)?;
    let vm = cluster.first().start(host, &run)?;
    wait_ready(&vm)?;
    let time = vm.age();
    let own = vm.wait_for(&Want::id(KUBEADM_STARTED), &[], Duration::from_secs(1))?;
    let figure = |name| own.get(name).unwrap_or("?").to_string();
    println!(
        "  firstboot until kubeadm: {} ms of processor, {} ms of time, {} KiB at most",
        figure(field::OWN_MS),
        figure(field::SINCE_START_MS),
        figure(field::PEAK_MEMORY_KIB)
    );
    let image: serde_json::Value =
        serde_json::from_str(&vm.ok("cat /usr/share/firstlight/image.json")?)?;
    let missing = image["missing_addons"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str());
    let skip = missing
        .map(|addon| format!("--skip-phases=addon/{addon}"))
        .collect::<Vec<_>>()
        .join(" ");
    let recipe = Recipe {
        kubeadm: vm.ok("base64 /var/lib/firstlight/kubeadm.yaml")?,
        skip,
    };
    run.passed();
    Ok((time, recipe))
}

fn usual_way(host: &Host, output: &Output, images: &DiskFile, recipe: &Recipe) -> Result<Duration> {
    let run = Run::new("bench-usual")?;
    let mut cluster = Cluster::new(host, &run, output)?;
    let first = &mut cluster.members[0];
    let script = USUAL
        .replace("@NAME@", &first.name)
        .replace("@MAC@", &first.machine.nics[0].mac)
        .replace("@ADDRESS@", &first.address.to_string())
        .replace("@KUBEADM@", recipe.kubeadm.trim_end())
        .replace("@SKIP@", &recipe.skip);
    let unit = "[Unit]\nAfter=multi-user.target\nConditionPathExists=!/etc/initrd-release\n[Service]\nType=oneshot\n\
                ExecStart=/bin/sh ${CREDENTIALS_DIRECTORY}/usual\nImportCredential=usual\nTimeoutStartSec=infinity\n";
    first.machine.smbios = vec![
        // An empty unit is a masked one.
        credential("systemd.extra-unit.firstboot.service", b""),
        credential("systemd.extra-unit.usual.service", unit.as_bytes()),
        credential(
            "systemd.unit-dropin.multi-user.target~usual",
            b"[Unit]\nWants=usual.service\n",
        ),
        credential("usual", script.as_bytes()),
    ];
    first.machine.disks.pop();
    first.machine.disks.push(images.clone());
    let vm = cluster.first().start(host, &run)?;
    vm.wait_for(
        &Want::id(USUAL_READY),
        &[Want::id(USUAL_FAILED)],
        READY_DEADLINE * 3,
    )?;
    let time = vm.age();
    run.passed();
    Ok(time)
}

/// The package's image archives on a disk, as an administrator would have copied them to the host.
fn images_disk(host: &Host, run: &Run) -> Result<DiskFile> {
    let images = kube::package(host)?.join("images");
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

fn print_build(output: &Output) -> Result<()> {
    let image = std::fs::metadata(output.image())?;
    let blocks = std::os::unix::fs::MetadataExt::blocks(&image) * 512;
    println!(
        "image: {} MiB on disk, {} MiB long",
        blocks >> 20,
        image.len() >> 20
    );
    if let Some(stages) = output.manifest()?.pointer("/image/stages") {
        println!("bake time by stage, ms: {stages}");
    }
    Ok(())
}

fn median(times: &[Duration]) -> Duration {
    times[times.len() / 2]
}

fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let (low, high) = (times[0].as_secs_f64(), times[times.len() - 1].as_secs_f64());
    format!("{:.1} s ({low:.1}-{high:.1})", median(times).as_secs_f64())
}
