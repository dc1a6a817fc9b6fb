//! Composes the root file system: Debian's base, the package, the programs of this repository, and
//! `root_files`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use default_package::Supplies;
use userdata::image_info::ImageInfo;
use userdata::runtime::Runtime;

use super::archive::{Archive, Content, Entry, Placed};
use super::root_files::{self, REMOVED};
use super::sealed;
use super::site::Site;
use crate::package::{MANIFESTS, Verdict, unpacked};
use crate::plan::ImagePlan;

/// The sources of a root.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Debian's base as a tar file.
    pub base: &'a Path,
    /// `usr/lib/modules/<release>` of the kernel that boots the image.
    pub modules: &'a Path,
    pub release: &'a str,
    /// The package, unpacked.
    pub package: &'a Path,
    /// firstboot and lvscare, static.
    pub programs: &'a Path,
    pub facts: &'a ImageInfo,
    /// Where the parts of the package go.
    pub verdict: &'a Verdict,
    /// What the package lacks and the image has.
    pub supplies: &'a Supplies,
    /// What the site adds.
    pub plan: &'a ImagePlan,
    /// For unpacked archives.
    pub work: &'a Path,
}

/// The whole root except the container images, which [`containerd`](super::containerd) adds.
/// Also returns name and size of the Debian packages that the site adds.
pub fn compose(inputs: &Inputs<'_>) -> Result<(Archive, Vec<(String, u64)>)> {
    let mut root = Archive::default();
    let site = base(&mut root, inputs)?;
    root.host_folder(
        &format!("usr/lib/modules/{}", inputs.release),
        inputs.modules,
    )?;
    runtime(&mut root, inputs)?;
    supplies(&mut root, inputs)?;
    package(&mut root, inputs)?;
    if inputs.facts.runtime.is_docker() {
        super::docker::add_group(&mut root)?;
    }
    for program in super::programs::NAMES {
        root.host_file(
            &format!("usr/bin/{program}"),
            0o755,
            &inputs.programs.join(program),
        )?;
    }
    root_files::add(&mut root, inputs.facts)?;
    sealed::add(&mut root, inputs.plan)?;
    site.add(&mut root, inputs.plan);
    Ok((root, site.sizes))
}

fn base(root: &mut Archive, inputs: &Inputs<'_>) -> Result<Site> {
    let tar = inputs.base;
    let file = Arc::new(File::open(tar).with_context(|| format!("opening `{}`", tar.display()))?);
    root.add_tar(&file, |path| Some(Placed::At(path.to_owned())))?;
    let site = Site::read(root, inputs.plan)?;
    for path in REMOVED {
        root.remove(path);
    }
    Ok(site)
}

/// Adds the container runtime: programs to /usr/bin and CNI plugins to /opt/cni/bin, as the
/// verdict places them.
fn runtime(root: &mut Archive, inputs: &Inputs<'_>) -> Result<()> {
    let placed = &inputs.verdict.runtime;
    let files: BTreeSet<&str> = placed.iter().map(|placed| placed.file.as_str()).collect();
    for file in files {
        let of_file = || placed.iter().filter(|placed| placed.file == file);
        for program in of_file().filter(|placed| placed.entry.is_none()) {
            root.host_file(&program.to, 0o755, &inputs.package.join(file))?;
        }
        let entries: BTreeMap<&str, &str> = of_file()
            .filter_map(|placed| Some((placed.entry.as_deref()?, placed.to.as_str())))
            .collect();
        if entries.is_empty() {
            continue;
        }
        // Errors use the name in the package: the folder is gone when a person reads them.
        let unpacking = || format!("unpacking `{file}` of the package");
        let unpacked = unpacked(&inputs.package.join(file), inputs.work).with_context(unpacking)?;
        root.add_tar(&Arc::new(unpacked), |path| {
            entries.get(path).map(|to| Placed::At((*to).to_owned()))
        })
        .with_context(unpacking)?;
        for to in entries.values() {
            if let Some(entry) = root
                .get(to)
                .filter(|e| matches!(e.content, Content::File(_)))
            {
                root.add(to, Entry::new(entry.content.clone(), 0o755));
            }
        }
    }
    Ok(())
}

/// Adds what the package lacks.
fn supplies(root: &mut Archive, inputs: &Inputs<'_>) -> Result<()> {
    for supplied in &inputs.verdict.supplied {
        let file = inputs.supplies.file(supplied.program);
        let file =
            file.with_context(|| format!("`{}` was not built for the image", supplied.program))?;
        root.host_file(&supplied.to, 0o755, &file)?;
    }
    Ok(())
}

/// Adds `bin/`, `conf/` and `hooks/` of the package.
fn package(root: &mut Archive, inputs: &Inputs<'_>) -> Result<()> {
    let bin = inputs.package.join("bin");
    for name in &inputs.verdict.programs {
        root.host_file(&format!("usr/bin/{name}"), 0o755, &bin.join(name))?;
    }
    let conf = userdata::contract::CONF_DIR.trim_start_matches('/');
    root.directory(conf, 0o755);
    root.host_folder(conf, &inputs.package.join("conf"))?;
    // All manifests are in one file, in the order in which they are applied.
    root.remove(&format!("{conf}/net"));
    for name in ["kubeadm.yaml", MANIFESTS] {
        if let Some(bytes) = inputs.verdict.conf.get(name) {
            root.file(&format!("{conf}/{name}"), 0o644, bytes.clone());
        }
    }
    let units = "usr/lib/systemd/system";
    let runtime = inputs.verdict.container_runtime;
    let mut files = vec![
        ("kubelet.service", format!("{units}/kubelet.service")),
        (
            "10-kubeadm.conf",
            format!("{units}/kubelet.service.d/10-kubeadm.conf"),
        ),
        ("crictl.yaml", "etc/crictl.yaml".to_owned()),
    ];
    if runtime.is_docker() {
        files.push(("docker.service", format!("{units}/docker.service")));
        files.push(("daemon.json", "etc/docker/daemon.json".to_owned()));
        // Packages do not say it: they start docker before the kubelet by hand.
        let after = format!("[Unit]\nAfter={}\n", runtime.unit());
        let drop_in = format!("{units}/kubelet.service.d/05-runtime.conf");
        root.file(&drop_in, 0o600, after.into_bytes());
    } else {
        files.push(("containerd.service", format!("{units}/containerd.service")));
        let place = "etc/containerd/config.toml";
        files.push(("containerd-config.toml", place.to_owned()));
    }
    if runtime == Runtime::CriDockerd {
        files.push(("cri-docker.service", format!("{units}/cri-docker.service")));
    }
    for (name, place) in files {
        let bytes = inputs.verdict.conf.get(name);
        let bytes = bytes.with_context(|| format!("the package has no `conf/{name}`"))?;
        // CIS wants kubelet's unit for root alone, although it holds no secret.
        let mode = if place.contains("/kubelet.service") {
            0o600
        } else {
            0o644
        };
        root.file(&place, mode, bytes.clone());
    }
    let hooks = inputs.package.join("hooks");
    if hooks.is_dir() {
        root.host_folder(
            userdata::contract::HOOKS_DIR.trim_start_matches('/'),
            &hooks,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use userdata::image_info::KubeadmPhases;

    use super::*;
    use crate::package::Package;

    fn elf() -> Vec<u8> {
        [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 57]].concat()
    }

    /// Programs packed by xz.
    fn archive(names: &[&str]) -> Result<Vec<u8>> {
        let elf = elf();
        let mut tar = tar::Builder::new(liblzma::write::XzEncoder::new(Vec::new(), 1));
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(elf.len() as u64);
            // As of a person who packs without root and without the execute permission.
            header.set_uid(1000);
            header.set_gid(1000);
            header.set_mode(0o644);
            header.set_mtime(0);
            tar.append_data(&mut header, name, elf.as_slice())?;
        }
        Ok(tar.into_inner()?.finish()?)
    }

    /// A package whose runtime is containerd's archive with everything.
    fn folder(dir: &Path) -> Result<()> {
        let elf = elf();
        let archive = archive(&[
            "usr/local/bin/containerd",
            "usr/local/sbin/runc",
            "opt/cni/bin/bridge",
        ])?;
        let crd = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
                   metadata: {name: xs.a.b}\nspec: {group: a.b, names: {kind: X}}\n";
        let unit = "[Service]\nExecStart=/usr/local/bin/containerd\n";
        for (name, bytes) in [
            ("bin/kubeadm", elf.as_slice()),
            ("bin/kubelet", &elf),
            ("bin/kubectl", &elf),
            ("bin/crictl", &elf),
            (
                "conf/kubeadm.yaml",
                b"kind: ClusterConfiguration\nkubernetesVersion: v1.20.2\n",
            ),
            ("conf/containerd.service", unit.as_bytes()),
            (
                "conf/net/a.yaml",
                b"apiVersion: a.b/v1\nkind: X\nmetadata: {name: x}\n",
            ),
            ("conf/net/b.yaml", crd.as_bytes()),
            ("containerd/runtime", &archive),
            ("images/README.md", b""),
        ] {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().context("a folder")?)?;
            fs::write(path, bytes)?;
        }
        Ok(())
    }

    /// The root of the package in a folder.
    fn root(dir: &Path) -> Result<Archive> {
        let verdict = Package::read(dir)?.verdict();
        let facts = ImageInfo {
            api_version: String::new(),
            kind: String::new(),
            kubernetes_version: String::new(),
            kubeadm_api_version: String::new(),
            runtime: verdict.container_runtime,
            image_repository: String::new(),
            etcd_image_tag: String::new(),
            pause_image: String::new(),
            images: Vec::new(),
            missing_addons: Vec::new(),
            coredns_image: None,
            kubeadm_phases: KubeadmPhases::default(),
            package_digest: String::new(),
            impossible_keys: userdata::image_info::ImpossibleKeys::default(),
        };
        let inputs = Inputs {
            base: dir,
            modules: dir,
            release: "",
            package: dir,
            programs: dir,
            facts: &facts,
            verdict: &verdict,
            supplies: &Supplies::of(dir),
            plan: &ImagePlan::default(),
            work: dir,
        };
        let mut root = Archive::default();
        runtime(&mut root, &inputs)?;
        package(&mut root, &inputs)?;
        root_files::add(&mut root, &facts)?;
        Ok(root)
    }

    #[test]
    fn docker_takes_the_place_of_containerd() -> Result<()> {
        let dir = tempfile::tempdir()?;
        folder(dir.path())?;
        fs::remove_dir_all(dir.path().join("containerd"))?;
        fs::create_dir(dir.path().join("docker"))?;
        let names = ["dockerd", "docker", "containerd", "containerd-shim-runc-v2"];
        let names = names.map(|name| format!("docker/{name}"));
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.push("docker/runc");
        fs::write(dir.path().join("docker/docker.tgz"), archive(&names)?)?;
        let root = root(dir.path())?;
        let units = "usr/lib/systemd/system";
        for path in [
            "usr/bin/dockerd".to_owned(),
            format!("{units}/docker.service"),
            format!("{units}/multi-user.target.wants/docker.service"),
            format!("{units}/kubelet.service.d/05-runtime.conf"),
        ] {
            assert!(root.get(&path).is_some(), "{path}");
        }
        for path in [
            format!("{units}/containerd.service"),
            format!("{units}/multi-user.target.wants/containerd.service"),
            "etc/containerd/config.toml".to_owned(),
        ] {
            assert!(root.get(&path).is_none(), "{path}");
        }
        let daemon: serde_json::Value =
            serde_json::from_slice(&root.read("etc/docker/daemon.json")?)?;
        assert_eq!(daemon["storage-driver"], "overlay2");
        assert_eq!(daemon["exec-opts"][0], "native.cgroupdriver=systemd");
        let crictl = String::from_utf8(root.read("etc/crictl.yaml")?)?;
        assert!(
            crictl.contains("unix:///var/run/dockershim.sock"),
            "{crictl}"
        );
        Ok(())
    }

    #[test]
    fn parts_of_a_package_go_where_the_verdict_says() -> Result<()> {
        let dir = tempfile::tempdir()?;
        folder(dir.path())?;
        let root = root(dir.path())?;
        for path in [
            "usr/bin/containerd",
            "usr/bin/runc",
            "opt/cni/bin/bridge",
            "usr/bin/kubelet",
            "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf",
            "etc/containerd/config.toml",
            "etc/crictl.yaml",
        ] {
            assert!(root.get(path).is_some(), "{path}");
        }
        let runc = root.get("usr/bin/runc").context("seen above")?;
        assert_eq!((runc.mode, runc.uid, runc.gid), (0o755, 0, 0));
        let unit = root.read("usr/lib/systemd/system/containerd.service")?;
        assert_eq!(unit, b"[Service]\nExecStart=/usr/bin/containerd\n");
        let conf = "usr/share/firstlight/conf";
        assert!(root.get(&format!("{conf}/net/a.yaml")).is_none());
        let text = String::from_utf8(root.read(&format!("{conf}/{MANIFESTS}"))?)?;
        let (first, second) = text.split_once("---\n").context("two documents")?;
        assert!(first.contains("CustomResourceDefinition") && second.contains("a.b/v1"));
        Ok(())
    }
}
