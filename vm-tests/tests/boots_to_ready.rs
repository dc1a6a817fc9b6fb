//! One control plane, from the disk image by UEFI to Ready, with no network but its own.

use std::collections::BTreeSet;

use anyhow::Result;
use firstboot::journal::{KUBEADM_STARTED, field};
use vm_tests::artifacts::{Output, Programs, topology};
use vm_tests::cluster::{Cluster, wait_ready};
use vm_tests::formed;
use vm_tests::host::Host;
use vm_tests::journal::Want;
use vm_tests::kube;
use vm_tests::run::Run;

// One boot costs minutes without KVM: claims that do not disturb one another share it.
#[test]
fn boots_from_the_disk_image_to_ready_with_baked_images_only() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run = Run::new("boots_to_ready")?;
    let cluster = Cluster::new(&host, &run, &output)?;
    cluster.switch.record(&run.folder().join("network.pcap"))?;
    let vm = cluster.first().start(&host, &run)?;
    let ready = wait_ready(&vm)?;
    assert_eq!(ready.get(field::HOST), Some("m0"), "{ready:?}");
    assert_eq!(ready.get(field::ROLE), Some("master0"), "{ready:?}");

    // UEFI, and the root that was measured into the command line.
    assert_eq!(
        vm.ok("test -d /sys/firmware/efi && findmnt -no FSTYPE,OPTIONS /")?
            .split_whitespace()
            .next(),
        Some("erofs")
    );
    assert_eq!(
        vm.ok("touch /usr/x 2>&1 || echo refused")?.lines().last(),
        Some("refused")
    );
    assert!(vm.ok("cat /proc/cmdline")?.contains("roothash="));
    assert_eq!(vm.ok("findmnt -no FSTYPE /etc")?.trim(), "overlay");
    assert_eq!(
        vm.ok("lsblk -no PARTLABEL $(findmnt -no SOURCE /var)")?
            .trim(),
        userdata::contract::STATE_PARTITION
    );

    // The control plane runs, as containers, from images that were there before the first boot.
    let running = vm.ok("crictl ps --output json | tr -d '\\n'")?;
    for component in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "etcd",
        "kube-proxy",
    ] {
        assert!(
            running.contains(&format!("\"{component}\"")),
            "no running container `{component}`: {running}"
        );
    }
    let patience = vm.ok("systemctl show -P TimeoutStopUSec 'cri-containerd-*.scope' | sort -u")?;
    assert_eq!(
        patience.trim(),
        "30s",
        "a shutdown waits for containers as kubelet would"
    );
    assert_eq!(
        vm.ok("cat /proc/sys/net/ipv4/tcp_congestion_control")?
            .trim(),
        "bbr"
    );
    let image: serde_json::Value =
        serde_json::from_str(&vm.ok("cat /usr/share/firstlight/image.json")?)?;
    let baked: BTreeSet<String> = image["images"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| Some(name.as_str()?.to_string()))
        .collect();
    let stored: BTreeSet<String> = vm
        .ok("ctr --namespace k8s.io images ls -q")?
        .lines()
        .filter(|name| !name.contains("@sha256:") && !name.starts_with("sha256:"))
        .map(str::to_string)
        .collect();
    assert!(!baked.is_empty());
    assert_eq!(
        stored, baked,
        "the store holds what was baked, no more and no less"
    );
    let journal = vm.journal()?.records();
    for record in &journal {
        let text = record.message();
        let pulled = record.get("_SYSTEMD_UNIT") == Some("containerd.service")
            && (text.contains("PullImage") || text.contains("ImageCreate"));
        assert!(
            !pulled,
            "an image was pulled or imported: {}",
            record.line()
        );
    }

    // The cluster answers this host, by the administrator's own credentials.
    let nodes: serde_json::Value = serde_json::from_str(&kube::ask(
        &host,
        &cluster,
        cluster.first(),
        &output,
        run.folder(),
        &["get", "nodes", "-o", "json"],
    )?)?;
    let node = &nodes["items"][0];
    assert_eq!(node["metadata"]["name"], "m0");
    let conditions = node["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert!(
        conditions
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True"),
        "{conditions:?}"
    );
    let events = kube::ask(
        &host,
        &cluster,
        cluster.first(),
        &output,
        run.folder(),
        &["get", "events", "-A", "-o", "jsonpath={.items[*].reason}"],
    )?;
    assert!(
        !events.split_whitespace().any(|reason| reason == "Pulling"),
        "{events}"
    );

    let own = vm.wait_for(
        &Want::id(KUBEADM_STARTED),
        &[],
        std::time::Duration::from_secs(1),
    )?;
    println!(
        "firstboot until kubeadm: {:?} ms of processor, {:?} KiB",
        own.get(field::OWN_MS),
        own.get(field::PEAK_MEMORY_KIB)
    );
    println!(
        "power-on to ready: {:.1} s of the guest's clock",
        ready.since_boot().unwrap_or_default().as_secs_f64()
    );
    cluster.no_packet_left()?;

    formed::keep_master0(&host, &output, vm, cluster.first().disk())?;
    run.passed();
    Ok(())
}
