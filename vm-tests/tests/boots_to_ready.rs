//! A control-plane host boots its disk image by UEFI, loses power inside kubeadm, and becomes Ready
//! without an outside network.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use firstboot::journal::{KUBEADM_STARTED, STEP_STARTED, field};
use userdata::contract::STATE_PARTITION;
use vm_tests::cluster::etcd::Etcd;
use vm_tests::cluster::kubectl;
use vm_tests::cluster::snapshot;
use vm_tests::cluster::ssh;
use vm_tests::cluster::{Cluster, READY_DEADLINE, never_ready, wait_ready};
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::disk;
use vm_tests::machine::journal::RecordMatch;
use vm_tests::machine::vm::Vm;

// A boot takes minutes without KVM, so checks that do not disturb each other share one.
#[test]
fn disk_image_boots_to_ready_despite_a_power_cut() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run_dir = RunDir::new("boots_to_ready")?;
    let mut cluster = Cluster::new(&host, &run_dir, &output)?;
    cluster
        .switch
        .record(&run_dir.folder().join("network.pcap"))?;
    // The disk of another node, attached to this one: its state must not become this node's.
    let foreign = disk::with_partition(&run_dir, "foreign", STATE_PARTITION)?;
    let foreign_before = fs::read(&foreign.path)?;
    let first = cluster.first().name.clone();
    cluster
        .member_mut(&first)?
        .machine
        .disks
        .push(foreign.clone());
    let time_scale = cluster.first().machine.time_scale;
    cut_inside_kubeadm(cluster.first().start(&host, &run_dir)?, time_scale)?;
    let vm = cluster.first().start(&host, &run_dir)?;
    let ready = wait_ready(&vm)?;
    assert_ne!(
        ready.get(field::CHANGED),
        Some("0"),
        "the power was cut after the first boot: {ready:?}"
    );
    assert_eq!(ready.get(field::HOST), Some("m0"), "{ready:?}");
    assert_eq!(ready.get(field::ROLE), Some("master0"), "{ready:?}");

    // UEFI, and the read-only root whose hash is in the kernel's command line.
    assert_eq!(
        vm.shell("test -d /sys/firmware/efi && findmnt -no FSTYPE,OPTIONS /")?
            .split_whitespace()
            .next(),
        Some("erofs")
    );
    assert_eq!(
        vm.shell("touch /usr/x 2>&1 || echo refused")?
            .lines()
            .last(),
        Some("refused")
    );
    assert!(vm.shell("cat /proc/cmdline")?.contains("roothash="));
    assert_eq!(vm.shell("findmnt -no FSTYPE /etc")?.trim(), "overlay");
    assert_eq!(
        vm.shell("lsblk -no PARTLABEL $(findmnt -no SOURCE /var)")?
            .trim(),
        STATE_PARTITION
    );

    let root_disk = vm.shell(
        "cd /sys/class/block/dm-0/slaves && set -- * && basename \"$(dirname \"$(readlink -f \"$1\")\")\"",
    )?;
    assert_eq!(
        vm.shell("lsblk -no PKNAME $(findmnt -no SOURCE /var)")?
            .trim(),
        root_disk.trim(),
        "/var is on the disk of the root"
    );
    assert!(
        fs::read(&foreign.path)? == foreign_before,
        "the other disk has changed"
    );

    // The topology has a key, so its owner can log in.
    assert_eq!(
        vm.shell("systemctl is-enabled ssh.service")?.trim(),
        "enabled"
    );
    let keys =
        vm.shell("sshd -T | grep -i authorizedkeysfile; cat /etc/ssh/authorized_keys.d/root")?;
    assert!(keys.contains("operator@example"), "{keys}");
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/test-key");
    let key = ssh::private_copy(Path::new(fixture), run_dir.folder())?;
    let login = ssh::arguments(&cluster, cluster.first(), &vm, &key, run_dir.folder())?;
    let status = ssh::run(&login, "id --user --name; firstboot status")?;
    assert!(status.starts_with("root\n"), "{status}");
    // The fingerprint by which the person knew that this is the machine.
    let prints = vm.shell("ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub")?;
    let print = prints.split_whitespace().nth(1).unwrap_or_default();
    assert!(
        print.starts_with("SHA256:") && status.contains(print),
        "{print}: {status}"
    );
    vm.wait_for_console(print, Duration::from_secs(5))?;

    // The control plane runs in containers, from images that are part of the disk image.
    let running = vm.shell("crictl ps --output json | tr -d '\\n'")?;
    for component in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "etcd",
        "kube-proxy",
        "kube-flannel",
        "coredns",
    ] {
        assert!(
            running.contains(&format!("\"{component}\"")),
            "no running container `{component}`: {running}"
        );
    }
    let stop_timeout =
        vm.shell("systemctl show -P TimeoutStopUSec 'cri-containerd-*.scope' | sort -u")?;
    assert_eq!(
        stop_timeout.trim(),
        "30s",
        "a shutdown gives containers the grace period of kubelet"
    );
    assert_eq!(
        vm.shell("cat /proc/sys/net/ipv4/tcp_congestion_control")?
            .trim(),
        "bbr"
    );
    let image: serde_json::Value =
        serde_json::from_str(&vm.shell("cat /usr/share/firstlight/image.json")?)?;
    let baked: BTreeSet<String> = image["images"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| Some(name.as_str()?.to_string()))
        .collect();
    let stored: BTreeSet<String> = vm
        .shell("ctr --namespace k8s.io images ls -q")?
        .lines()
        .filter(|name| !name.contains("@sha256:") && !name.starts_with("sha256:"))
        .map(str::to_string)
        .collect();
    assert!(!baked.is_empty());
    assert_eq!(
        stored, baked,
        "containerd has exactly the images of the disk image"
    );
    let journal = vm.journal()?.records();
    for record in &journal {
        let text = record.message();
        let pulled = record.get("_SYSTEMD_UNIT") == Some("containerd.service")
            && (text.contains("PullImage") || text.contains("ImageCreate"));
        assert!(
            !pulled,
            "containerd has pulled or imported an image: {}",
            record.line()
        );
    }

    // The apiserver accepts the administrator's kubeconfig.
    let nodes: serde_json::Value = serde_json::from_str(&kubectl::run(
        &host,
        &cluster,
        cluster.first(),
        &output,
        run_dir.folder(),
        &["get", "nodes", "-o", "json"],
    )?)?;
    let node = &nodes["items"][0];
    assert_eq!(node["metadata"]["name"], "m0");
    // `taints: []` of the topology: pods may run on this master.
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let taints: Vec<_> = taints
        .filter(|taint| taint["key"] == "node-role.kubernetes.io/control-plane")
        .collect();
    assert!(taints.is_empty(), "{taints:?}");
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
    let events = kubectl::run(
        &host,
        &cluster,
        cluster.first(),
        &output,
        run_dir.folder(),
        &["get", "events", "-A", "-o", "jsonpath={.items[*].reason}"],
    )?;
    assert!(
        !events.split_whitespace().any(|reason| reason == "Pulling"),
        "{events}"
    );

    let on_cluster = |arguments: &[&str]| {
        kubectl::run(
            &host,
            &cluster,
            cluster.first(),
            &output,
            run_dir.folder(),
            arguments,
        )
    };
    // etcd has Secrets encrypted, by the key of this cluster.
    on_cluster(&[
        "create",
        "secret",
        "generic",
        "probe",
        "--from-literal=a=plain-word",
    ])?;
    let etcd = Etcd::of(&host, &cluster, cluster.first(), &vm, run_dir.folder())?;
    let value = etcd.value("/registry/secrets/default/probe")?;
    let text = String::from_utf8_lossy(&value);
    assert!(
        text.starts_with("k8s:enc:secretbox:v1:firstlight:"),
        "{text}"
    );
    assert!(!text.contains("plain-word"), "{text}");
    on_cluster(&["delete", "secret", "probe"])?;

    // The apiserver reads a log from a kubelet whose certificate it verifies.
    on_cluster(&["logs", "--namespace=kube-system", "etcd-m0", "--tail=1"])?;
    let flags = vm.shell("cat /etc/kubernetes/manifests/kube-apiserver.yaml")?;
    assert!(
        flags.contains("--kubelet-certificate-authority=/etc/kubernetes/pki/ca.crt"),
        "{flags}"
    );

    let own = vm.wait_for(
        &RecordMatch::id(KUBEADM_STARTED),
        &[],
        Duration::from_secs(1),
    )?;
    println!(
        "firstboot until kubeadm: {:?} ms of processor time, {:?} KiB",
        own.get(field::OWN_MS),
        own.get(field::PEAK_MEMORY_KIB)
    );
    println!(
        "power-on after the cut to ready: {:.1} s of the guest's clock",
        ready.since_boot().unwrap_or_default().as_secs_f64()
    );
    cluster.assert_no_packet_left()?;

    snapshot::save_master0(&host, &output, vm, cluster.first().disk())?;
    run_dir.passed();
    Ok(())
}

/// Cuts the power of a machine in its first boot. `resumes_after_power_cut` does it at other steps.
fn cut_inside_kubeadm(vm: Vm, time_scale: f64) -> Result<()> {
    let inside = RecordMatch::id(STEP_STARTED).field(field::STEP, "static-pods");
    vm.wait_for(&inside, &never_ready(), READY_DEADLINE)?;
    // kubeadm's call takes 2.4 s of an emulated machine's clock.
    thread::sleep(Duration::from_secs(1).div_f64(time_scale));
    vm.power_cut()
}
