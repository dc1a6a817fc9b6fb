//! A control-plane host becomes Ready on docker and dockershim, from the images in docker's store,
//! with a power cut in between.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use build_tools::cache::Cache;
use build_tools::progress::Progress;
use firstboot::journal::{DOCUMENT_REFUSED, FAILED, STEP_STARTED, field};
use vm_tests::cluster::{Cluster, READY_DEADLINE, wait_ready};
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::host::{Host, docker};
use vm_tests::machine::journal::RecordMatch;
use vm_tests::machine::vm::Vm;

#[test]
#[ignore = "15 minutes without KVM; run: cargo test -p vm-tests --test docker_runtime -- --include-ignored"]
fn master_on_docker_becomes_ready_after_a_power_cut() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let package = docker::package(&Cache::open()?, &Progress::stderr())?;
    let programs = Programs::build()?;
    let output = Output::make_of(&programs, &topology("one"), &package, "docker-one")?;
    let run_dir = RunDir::new("docker_runtime")?;
    let cluster = Cluster::new(&host, &run_dir, &output)?;

    // docker runs the control plane by then.
    let vm = cluster.first().start(&host, &run_dir)?;
    let failed = [RecordMatch::id(FAILED), RecordMatch::id(DOCUMENT_REFUSED)];
    let started = RecordMatch::id(STEP_STARTED).field(field::STEP, "init-finish");
    vm.wait_for(&started, &failed, READY_DEADLINE)
        .context("before the power cut")?;
    vm.power_cut()?;
    let vm = cluster.first().start(&host, &run_dir)?;
    let ready = wait_ready(&vm)?;
    println!("Ready after the power cut: {ready:?}");

    let running = vm.shell("docker ps --format '{{.Names}} {{.Image}}'")?;
    println!("{running}");
    for component in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "etcd",
        "kube-proxy",
        "kube-flannel",
    ] {
        let name = format!("k8s_{component}_");
        ensure!(
            running.contains(&name),
            "no container {component}: {running}"
        );
    }
    has_the_images_of_the_image(&vm)?;
    let driver = vm.shell("docker info --format '{{.Driver}} {{.CgroupDriver}}'")?;
    ensure!(driver.trim() == "overlay2 systemd", "{driver}");
    let scopes = vm.shell("systemctl show -P TimeoutStopUSec 'docker-*.scope' | sort -u")?;
    ensure!(scopes.trim() == "30s", "{scopes}");

    let kubectl = |command: &str| {
        vm.shell(&format!(
            "kubectl --kubeconfig /etc/kubernetes/admin.conf {command}"
        ))
    };
    let runtime = "get node m0 -o jsonpath='{.status.nodeInfo.containerRuntimeVersion}'";
    let runtime = kubectl(runtime)?;
    ensure!(runtime.starts_with("docker://20.10"), "{runtime}");
    let logs = kubectl("-n kube-system logs etcd-m0 --tail=3")?;
    ensure!(!logs.trim().is_empty(), "etcd has no log");
    let inside = kubectl("-n kube-system exec etcd-m0 -- etcdctl version")?;
    ensure!(inside.contains("etcdctl version"), "{inside}");
    let events = kubectl("get events -A -o jsonpath='{.items[*].reason}'")?;
    ensure!(
        !events.split_whitespace().any(|reason| reason == "Pulling"),
        "{events}"
    );
    drop(vm);
    run_dir.passed();
    Ok(())
}

/// docker has exactly the images of the disk image, and they lead to the verified root.
fn has_the_images_of_the_image(vm: &Vm) -> Result<()> {
    let image: serde_json::Value =
        serde_json::from_str(&vm.shell("cat /usr/share/firstlight/image.json")?)?;
    ensure!(image["runtime"] == "dockershim", "{image}");
    let baked: BTreeSet<String> = image["images"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| Some(name.as_str()?.to_owned()))
        .collect();
    let listed = vm.shell("docker images --format '{{.Repository}}:{{.Tag}}'")?;
    println!("{listed}");
    let stored: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    ensure!(
        stored == baked,
        "docker has {stored:?}, the image {baked:?}"
    );
    let command =
        "docker inspect --format '{{.GraphDriver.Data.UpperDir}}' $(docker images -q | head -1)";
    let folder = vm.shell(&format!("readlink -f \"$({command})\""))?;
    ensure!(
        folder.starts_with("/usr/share/firstlight/images/"),
        "{folder}"
    );
    Ok(())
}
