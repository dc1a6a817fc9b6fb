//! A hook of a package changes the image or fails the build, and the image is also built as qcow2.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use build_tools::cache::Cache;
use build_tools::progress::Progress;
use imagegen::plan::Kernel;
use userdata::contract::ROOT_PARTITION;
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Programs, topology};
use vm_tests::host::process;
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::disk;

const HOOK: &str = include_str!("build_hook.sh");

/// One image for all checks, because a build takes a minute.
#[test]
fn build_hook_changes_or_stops_the_image() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run_dir = RunDir::new("packages_adapt")?;
    let (cache, progress) = (Cache::open()?, Progress::stderr());
    let default = default_package::default_package(&cache, &progress)?;
    let package = run_dir.folder().join("package");
    process::run(
        Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .arg(default)
            .arg(&package),
    )?;
    let programs = Programs::build()?;
    let out = run_dir.folder().join("out");
    let image = || -> Result<Output> {
        let mut imagegen = Command::new(&programs.imagegen);
        imagegen.args(["image", "--qcow2", "--verbose"]);
        imagegen.arg("--topology").arg(topology("one"));
        imagegen.arg("--package").arg(&package);
        imagegen.arg("--programs").arg(&programs.image);
        imagegen
            .arg("--output")
            .arg(&out)
            .output()
            .context("starting imagegen")
    };
    let stderr = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    hook(
        &package,
        "#!/bin/sh\necho looking for firmware\necho 'none here' >&2\nexit 4\n",
    )?;
    let failed = image()?;
    let text = stderr(&failed);
    ensure!(failed.status.code() == Some(1), "{text}");
    let wanted = "running the package's hook inside the root: running `hooks/build`: exit status: 4\n  looking for firmware\n  none here\n";
    ensure!(text.ends_with(wanted), "{text}");
    ensure!(!out.exists(), "the failed build has left an output");

    hook(&package, HOOK)?;
    let made = image()?;
    ensure!(made.status.success(), "{}", stderr(&made));
    ensure!(
        stderr(&made).contains("info: hooks/build: adapting\n"),
        "{}",
        stderr(&made)
    );
    let raw = out.join("node.raw");
    let root = run_dir.folder().join("root.img");
    disk::copy_partition(&raw, ROOT_PARTITION, &root)?;
    let erofs = imagegen::image::tools(&cache, Kernel::Cloud, &progress)?;
    let cat = |path: &str| -> Result<String> {
        let mut dump = erofs.program("dump.erofs")?;
        let bytes = process::run(dump.arg("--cat").arg(format!("--path={path}")).arg(&root))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    ensure!(cat("/etc/adapted")? == "adapted from kube-flannel.yaml\n");
    ensure!(cat("/usr/share/firstlight/state/lib/adapted")? == "state\n");

    let qcow2 = out.join("node.qcow2");
    let qemu_img = || host.tools().command("bin/qemu-img", None);
    process::run(qemu_img().arg("check").arg(&qcow2))?;
    process::run(qemu_img().arg("compare").args([&raw, &qcow2]))?;
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("manifest.json"))?)?;
    let digest = imagegen::manifest::digest_file(&qcow2)?;
    ensure!(
        manifest["outputs"]["node.qcow2"] == digest.as_str(),
        "{manifest}"
    );
    let again = image()?;
    ensure!(
        String::from_utf8_lossy(&again.stdout).contains("nothing to do"),
        "{}",
        stderr(&again)
    );
    run_dir.passed();
    Ok(())
}

/// Writes the package's hook.
fn hook(package: &Path, text: &str) -> Result<()> {
    let path = package.join("hooks/build");
    fs::create_dir_all(package.join("hooks"))?;
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .context("making the hook executable")
}
