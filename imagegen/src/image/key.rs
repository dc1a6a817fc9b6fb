//! What an image is made from, and a digest of it: an equal key means an equal image.

use std::path::Path;

use anyhow::{Context as _, Result};
use build_tools::cache::Key;
use build_tools::debian_tree::SOURCE_DATE_EPOCH;

use super::signing::Signing;
use super::{
    containerd, debian, disk, docker, hooks, initrd, programs, root_files, sealed, uki, verity,
};
use crate::digest::{digest, digest_file};
use crate::package::{BUILD_HOOK, Package};
use crate::plan::ImagePlan;
use crate::state_keys::PolicyKey;

/// Incremented when code changes the image in a way that no part of the key shows.
const REVISION: u32 = 4;

/// Code that decides what is in the root: an edit of it makes another image.
const CODE: &[&str] = &[
    include_str!("archive/tarfile.rs"),
    include_str!("archive/tar_split.rs"),
    include_str!("build.rs"),
    include_str!("containerd/snapshots.rs"),
    include_str!("containerd/store.rs"),
    include_str!("docker/group.rs"),
    include_str!("docker/store.rs"),
    include_str!("facts.rs"),
    include_str!("kubeadm.rs"),
    include_str!("layers.rs"),
    include_str!("root.rs"),
    include_str!("site.rs"),
    // What becomes of each part of a package.
    include_str!("../package/cluster.rs"),
    include_str!("../package/verdict/choose.rs"),
    include_str!("../package/verdict/conf.rs"),
    include_str!("../package/verdict/containerd.rs"),
    include_str!("../package/verdict/docker.rs"),
    include_str!("../package/verdict/files.rs"),
    include_str!("../package/verdict/mod.rs"),
    include_str!("../package/verdict/needs.rs"),
    include_str!("../package/verdict/runtime.rs"),
    include_str!("../package/verdict/scripts.rs"),
    include_str!("../package/verdict/supply.rs"),
    include_str!("../package/verdict/units.rs"),
    include_str!("../package/manifest/complete.rs"),
    include_str!("../package/manifest/mod.rs"),
];

/// What an image is made from.
#[derive(Debug)]
pub struct ImageRequest<'a> {
    pub package: &'a Package,
    pub plan: &'a ImagePlan,
    /// The folder of the static programs `firstboot` and `lvscare`.
    pub programs: &'a Path,
    /// `None`: the firmware boots the image only without Secure Boot.
    pub signing: Option<&'a Signing>,
    /// Signs the policy of an image with encrypted state.
    pub policy: Option<&'a PolicyKey>,
    /// Files for the seed partition, by name; normally none.
    pub seed: Vec<(String, Vec<u8>)>,
}

impl<'a> ImageRequest<'a> {
    pub(super) fn keys(&self) -> uki::Keys<'a> {
        uki::Keys {
            secure_boot: self.signing,
            policy: self.policy,
        }
    }

    /// A digest of everything that decides the image's bytes.
    pub fn key(&self) -> Result<String> {
        let mut key = Key::new("image", REVISION);
        for (name, value) in self.parts()? {
            key = key.with(&name, value);
        }
        Ok(key.hex())
    }

    /// The documents of a large cluster are too many bytes for a key.
    fn seed_digests(&self) -> String {
        let files = self.seed.iter();
        let lines = files.map(|(name, bytes)| format!("{name} {}\n", digest(bytes)));
        lines.collect()
    }

    /// Name and value of each input. Every module of the recipe formats its own constants, so that
    /// an edited list or option changes the key without being listed here.
    fn parts(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let plan = serde_json::to_vec(self.plan).context("writing the plan")?;
        let mut parts = vec![
            ("plan".to_owned(), plan),
            ("seed".to_owned(), self.seed_digests().into_bytes()),
        ];
        let mut text = |name: &str, value: String| parts.push((name.to_owned(), value.into()));
        text("version", env!("CARGO_PKG_VERSION").to_owned());
        text("date", SOURCE_DATE_EPOCH.to_string());
        text("package", self.package.digest());
        for name in programs::NAMES {
            text(name, digest_file(&self.programs.join(name))?);
        }
        text("code", CODE.concat());
        text("supplies", default_package::supply_recipe());
        text("Debian trees", debian::recipe(self.plan));
        text("root", root_files::recipe());
        text("containerd", containerd::store::recipe());
        text("docker", docker::store::recipe());
        text("verity", verity::recipe());
        text("initrd", initrd::recipe(self.plan));
        text("command line", uki::recipe());
        text("disk", disk::recipe());
        if let Some(policy) = self.policy {
            parts.push(("policy".to_owned(), policy.public_pem().into_bytes()));
            parts.push(("sealed".to_owned(), sealed::recipe(self.plan).into_bytes()));
        }
        if let Some(signing) = self.signing {
            parts.push(("signature".to_owned(), signing.recipe().to_vec()));
        }
        let mut text = |name: &str, value: String| parts.push((name.to_owned(), value.into()));
        if self.package.contains(BUILD_HOOK) {
            text("hook", hooks::recipe());
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use userdata::state_info::Encryption;

    use super::*;
    use crate::plan::Kernel;

    /// The smallest package that opens, and empty programs beside it.
    fn package(dir: &Path, hook: bool) -> Result<Package> {
        let mut files = vec![
            "bin/kubeadm",
            "bin/kubelet",
            "bin/kubectl",
            "bin/crictl",
            "conf/kubeadm.yaml",
            "conf/10-kubeadm.conf",
            "conf/kubelet.service",
            "containerd/containerd.tar.gz",
            "images/all.tar",
        ];
        files.extend(hook.then_some(BUILD_HOOK));
        for name in files {
            let path = dir.join("package").join(name);
            fs::create_dir_all(path.parent().context("a folder")?)?;
            fs::write(&path, "")?;
            let mode = if name == BUILD_HOOK { 0o755 } else { 0o644 };
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        }
        for name in programs::NAMES {
            fs::write(dir.join(name), "")?;
        }
        Package::read(&dir.join("package"))
    }

    fn plan() -> ImagePlan {
        ImagePlan {
            kernel: Kernel::Cloud,
            ..ImagePlan::default()
        }
    }

    fn request<'a>(dir: &'a Path, package: &'a Package, plan: &'a ImagePlan) -> ImageRequest<'a> {
        ImageRequest {
            package,
            plan,
            programs: dir,
            signing: None,
            policy: None,
            seed: Vec::new(),
        }
    }

    #[test]
    fn key_covers_every_list_and_option_of_the_recipe() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (package, plan) = (package(dir.path(), true)?, plan());
        let parts = request(dir.path(), &package, &plan).parts()?;
        for (part, value) in [
            ("Debian trees", "erofs-utils"),
            ("Debian trees", "linux-image-cloud-amd64"),
            ("Debian trees", "openssh-server"),
            ("Debian trees", "path-exclude=/usr/share/man/"),
            ("root", "openssh-server"),
            ("root", "usr/lib/sysctl.d/60-firstlight.conf"),
            ("root", "firstboot-status.socket"),
            ("root", "e2scrub_all.timer"),
            ("root", "usr/share/lintian"),
            ("root", "var/roothome"),
            ("containerd", "overlayfs"),
            ("docker", "overlay2"),
            ("docker", "native.cgroupdriver"),
            ("verity", "-zlz4hc,9"),
            ("initrd", "systemd-veritysetup"),
            ("initrd", "nvme"),
            ("initrd", "--no-hostonly"),
            ("command line", "panic-on-corruption"),
            ("disk", "268435456"),
            ("hook", "--bounding-set=-mknod"),
            ("hook", "--sort=name"),
            ("hook", "SOURCE_DATE_EPOCH"),
        ] {
            let found = parts.iter().find(|(name, _)| name == part);
            let (_, bytes) = found.with_context(|| format!("no part `{part}`"))?;
            let text = String::from_utf8_lossy(bytes);
            assert!(text.contains(value), "`{value}` is not in {part}: {text}");
        }
        Ok(())
    }

    #[test]
    fn key_changes_with_every_input() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (before, plan) = (package(dir.path(), false)?, plan());
        let mut keys = vec![request(dir.path(), &before, &plan).key()?];
        assert_eq!(keys[0], request(dir.path(), &before, &plan).key()?);
        let generic = ImagePlan {
            kernel: Kernel::Generic,
            ..plan.clone()
        };
        keys.push(request(dir.path(), &before, &generic).key()?);
        let mut seeded = request(dir.path(), &before, &plan);
        seeded.seed.push(("user-data".to_owned(), Vec::new()));
        keys.push(seeded.key()?);
        fs::write(dir.path().join("lvscare"), "new")?;
        keys.push(request(dir.path(), &before, &plan).key()?);
        keys.push(request(dir.path(), &package(dir.path(), true)?, &plan).key()?);
        let encrypted = ImagePlan {
            encrypt: Encryption::Tpm2,
            ..plan.clone()
        };
        for _ in 0..2 {
            let policy = PolicyKey::create()?;
            let mut sealed = request(dir.path(), &before, &encrypted);
            sealed.policy = Some(&policy);
            keys.push(sealed.key()?);
        }
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "{i}: {keys:?}");
        }
        Ok(())
    }
}
