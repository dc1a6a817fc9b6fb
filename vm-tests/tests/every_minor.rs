//! Every release of Kubernetes that imagegen builds is accepted by its own kubeadm and becomes
//! Ready.
//!
//! `FIRSTLIGHT_RELEASES=1.31,1.33` selects releases. A run that is stopped goes on where it was:
//! packages are kept in the cache, and each result in `target/vm-tests/every_minor/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use build_tools::cache::Cache;
use build_tools::progress::Progress;
use firstboot::kube::documents;
use firstboot::kubeadm::config;
use imagegen::image::facts;
use imagegen::package::Package;
use imagegen::package::oci::ImageArchive;
use userdata::image_info::ImageInfo;
use userdata::node_config::{NodeConfig, Role};
use vm_tests::cluster::testbed::Testbed;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::process;
use vm_tests::host::run_dir::{RunDir, target_dir};

const RELEASES: &str = "FIRSTLIGHT_RELEASES";

/// The releases in which kubeadm's phases of joining changed, and the newest.
const JOINS: &[&str] = &["1.31", "1.33", "1.37"];

#[test]
#[ignore = "builds every release, hours without a cache; run: cargo test -p vm-tests --test every_minor -- --include-ignored"]
fn kubeadm_of_each_release_accepts_our_configuration() -> Result<()> {
    let output = Output::make(&Programs::build()?, &topology("pair"))?;
    let run_dir = RunDir::new("every_minor")?;
    for release in releases() {
        let package = package(release)?;
        for host in ["m0", "m1", "n0"] {
            check_configuration(&run_dir, &output, &package, host)
                .with_context(|| format!("Kubernetes {release}, host {host}"))?;
        }
        println!("Kubernetes {release}: kubeadm accepts the configuration of each role");
    }
    run_dir.passed();
    Ok(())
}

#[test]
#[ignore = "builds and boots every release, 10 minutes each without KVM; run: cargo test -p vm-tests --test every_minor -- --include-ignored"]
fn one_master_of_each_release_becomes_ready() -> Result<()> {
    for release in releases() {
        forms(release, "one")?;
    }
    Ok(())
}

#[test]
#[ignore = "forms three clusters, 25 minutes each without KVM; run: cargo test -p vm-tests --test every_minor -- --include-ignored"]
fn masters_join_in_each_release_that_changed_phases() -> Result<()> {
    for release in releases().filter(|release| JOINS.contains(release)) {
        forms(release, "pair")?;
    }
    Ok(())
}

fn releases() -> impl Iterator<Item = &'static str> {
    let wanted = std::env::var(RELEASES).unwrap_or_default();
    default_package::releases().filter(move |release| {
        wanted.is_empty() || wanted.split(',').any(|one| one.trim() == *release)
    })
}

fn package(release: &str) -> Result<PathBuf> {
    default_package::package_of(release, &Cache::open()?, &Progress::stderr())
}

/// Forms the cluster of a topology with this release, unless that has been done with the same
/// image.
fn forms(release: &str, topology_name: &str) -> Result<()> {
    let name = format!("{topology_name}-{release}");
    let programs = Programs::build()?;
    let output = Output::make_of(
        &programs,
        &topology(topology_name),
        &package(release)?,
        &name,
    )?;
    let manifest = output.manifest()?.to_string();
    let results = target_dir().join("vm-tests/every_minor");
    let result = results.join(&name);
    if fs::read_to_string(&result).is_ok_and(|text| text == manifest) {
        println!("Kubernetes {release}, `{topology_name}`: formed before");
        return Ok(());
    }
    let mut testbed = Testbed::prepare(&format!("every_minor-{name}"), &output)?;
    testbed.start_all()?;
    println!("Kubernetes {release}, `{topology_name}`:");
    testbed.wait_ready_and_print()?;
    testbed.assert_healthy()?;
    testbed.passed();
    fs::create_dir_all(&results)?;
    fs::write(&result, manifest).with_context(|| format!("writing `{}`", result.display()))
}

/// Lets the package's kubeadm read what firstboot writes for a host.
fn check_configuration(
    run_dir: &RunDir,
    output: &Output,
    package: &Path,
    host: &str,
) -> Result<()> {
    let node = node(output, host)?;
    let image = image(package)?;
    let base = fs::read_to_string(package.join("conf/kubeadm.yaml"))?;
    let written = config::kubeadm(&node, &image, documents::parse("conf/kubeadm.yaml", &base)?)?;
    let file = run_dir
        .folder()
        .join(format!("{}-{host}.yaml", image.kubernetes_version));
    fs::write(&file, documents::to_text(&written))?;
    let kubeadm = |words: &[&str]| -> Result<String> {
        let mut kubeadm = Command::new(package.join("bin/kubeadm"));
        kubeadm.args(words).arg(&file);
        let output = process::run(&mut kubeadm)?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    };
    let minor: u32 = image
        .kubernetes_version
        .split('.')
        .nth(1)
        .and_then(|minor| minor.parse().ok())
        .context("the version has no minor number")?;
    if minor >= 26 {
        kubeadm(&["config", "validate", "--config"])?;
    } else {
        kubeadm(&[
            "config",
            "migrate",
            "--new-config=/dev/null",
            "--old-config",
        ])?;
    }
    if node.role == Role::Master0 {
        let named = kubeadm(&["config", "images", "list", "--config"])?;
        for name in named.lines().filter(|line| line.contains('/')) {
            // The sandbox image is the runtime's, and containerd's configuration names it.
            let is_pause = name.contains("/pause:");
            let is_missing_addon = image
                .missing_addons
                .iter()
                .any(|addon| name.contains(&format!("/{addon}")));
            ensure!(
                is_pause || is_missing_addon || image.images.iter().any(|one| one == name),
                "kubeadm names `{name}`, the package has {:?}",
                image.images
            );
        }
    }
    Ok(())
}

/// The node file of a host's document.
fn node(output: &Output, host: &str) -> Result<NodeConfig> {
    let path = output.folder().join("hosts").join(host).join("user-data");
    let (config, _) = userdata::cloud_config::CloudConfig::parse("user-data", &fs::read(&path)?)?;
    let file = config
        .value
        .files
        .iter()
        .find(|file| file.path == userdata::contract::NODE_FILE)
        .context("the document has no node file")?;
    let text = String::from_utf8(file.content.expose().clone())?;
    Ok(yaml::parse("node.yaml", &text)?.value)
}

/// What imagegen records about the package.
fn image(package: &Path) -> Result<ImageInfo> {
    let opened = Package::open(package)?;
    let mut images = Vec::new();
    for name in opened.images() {
        images.extend(ImageArchive::of_package(package, name)?.images);
    }
    facts::image_file(&opened, &opened.verdict(), &images)
}

#[test]
fn releases_with_joins_are_known() {
    for join in JOINS {
        assert!(
            default_package::releases().any(|one| one == *join),
            "{join}"
        );
    }
}
