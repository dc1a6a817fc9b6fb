//! Whether the programs of a package fit each other: asked of themselves, before anything slow.
//!
//! A package is untrusted: its programs run as the user nobody, with the tools tree as their root.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use build_tools::debian_tree::Tree;
use build_tools::process;
use semver::Version;

use super::archive::Archive;

const CONTAINERD: &str = "usr/bin/containerd";

/// Compares kubeadm, kubelet and kubectl of the unpacked `package` with the release that its
/// `conf/kubeadm.yaml` names. An error names every program that does not fit.
pub(super) fn kubernetes(tools: &Tree, package: &Path, release: &Version) -> Result<()> {
    let mut errors = Vec::new();
    for (program, arguments) in [
        ("kubeadm", &["version", "-o", "short"][..]),
        ("kubelet", &["--version"]),
        ("kubectl", &["version", "--client"]),
    ] {
        let says = ask(tools, &package.join("bin"), program, arguments)
            .with_context(|| format!("asking the package's `bin/{program}` for its version"))?;
        match version_in(&says) {
            Some(own) => errors.extend(unfit(program, &own, release)),
            None => errors.push(format!(
                "bin/{program}: it answers `{}`, and no version; is it {program}?",
                says.lines().next().unwrap_or_default()
            )),
        }
    }
    if !errors.is_empty() {
        bail!(
            "the programs of the package do not fit:\n  {}",
            errors.join("\n  ")
        );
    }
    Ok(())
}

/// Compares containerd in `root` with the kubelet, and with crictl if it is ours.
pub(super) fn containerd(
    tools: &Tree,
    root: &Archive,
    release: &Version,
    has_our_crictl: bool,
    work: &Path,
) -> Result<()> {
    if root.get(CONTAINERD).is_none() {
        return Ok(());
    }
    let folder = tempfile::tempdir_in(work).context("creating a temporary folder")?;
    let file = folder.path().join("containerd");
    fs::write(&file, root.read(CONTAINERD)?)
        .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("writing `{}`", file.display()))?;
    let says = match ask(tools, folder.path(), "containerd", &["--version"]) {
        Ok(says) => says,
        // It may need a library that only the root has.
        Err(error) => {
            log::warn!("the package's containerd does not tell its version: {error:#}");
            return Ok(());
        }
    };
    let Some(own) = version_in(&says) else {
        log::warn!(
            "the package's containerd tells no version: `{}`",
            says.trim()
        );
        return Ok(());
    };
    match contradiction(&own, release, has_our_crictl) {
        Some(why) => bail!("containerd of the package is {own}: {why}"),
        None => Ok(()),
    }
}

fn ask(tools: &Tree, folder: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = tools.chroot(&[(folder, "/run/package")], "setpriv")?;
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args(["--no-new-privs", "--"]);
    command
        .arg(format!("/run/package/{program}"))
        .args(arguments);
    Ok(String::from_utf8_lossy(&process::output(&mut command)?).into_owned())
}

/// The first version of an answer such as `Kubernetes v1.20.2` or
/// `containerd github.com/containerd/containerd v1.6.4 212e8b6`.
fn version_in(says: &str) -> Option<Version> {
    let words = says.split(|c: char| c.is_whitespace() || matches!(c, '"' | ',' | ':'));
    words
        .map(|word| Version::parse(word.trim_start_matches('v')))
        .find_map(Result::ok)
}

/// Why a program of Kubernetes is not of this release. A patch release of the same minor may
/// differ in the kubelet, and kubectl by a minor; a suffix such as `-lvscare` does not count.
fn unfit(program: &str, own: &Version, release: &Version) -> Option<String> {
    let fits = match program {
        "kubeadm" => {
            (own.major, own.minor, own.patch) == (release.major, release.minor, release.patch)
        }
        "kubelet" => (own.major, own.minor) == (release.major, release.minor),
        _ => own.major == release.major && own.minor.abs_diff(release.minor) <= 1,
    };
    (!fits).then(|| {
        format!(
            "bin/{program}: it is of Kubernetes {own}, and `conf/kubeadm.yaml` says {release}; \
             take {program} of {release}"
        )
    })
}

/// What containerd and the kubelet speak: CRI v1 since containerd 1.6 and kubelet 1.23, only that
/// from kubelet 1.26 and containerd 2.0 on. kubelet 1.36 needs containerd 2.
fn contradiction(own: &Version, release: &Version, has_our_crictl: bool) -> Option<String> {
    let before = |major: u64, minor: u64| (own.major, own.minor) < (major, minor);
    let say = |needed: &str| format!("kubelet {release} needs {needed}; take another containerd");
    if release.minor >= 36 && before(2, 0) {
        return Some(say("containerd 2.0 or newer"));
    }
    if release.minor >= 26 && before(1, 6) {
        return Some(say("containerd 1.6 or newer"));
    }
    if release.minor < 23 && own.major >= 2 {
        return Some(say("containerd 1.x, which speaks CRI v1alpha2"));
    }
    (has_our_crictl && before(1, 6)).then(|| {
        "the image's crictl speaks CRI v1, which containerd has since 1.6; add a crictl of its \
         time to `bin/`"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).expect("a version")
    }

    #[test]
    fn versions_are_read_from_the_programs_answers() {
        for (says, expected) in [
            ("v1.20.2\n", "1.20.2"),
            ("Kubernetes v1.14.1-lvscare\n", "1.14.1-lvscare"),
            (
                "Client Version: v1.28.0\nKustomize Version: v5.0.4\n",
                "1.28.0",
            ),
            (
                "Client Version: version.Info{Major:\"1\", Minor:\"20\", GitVersion:\"v1.20.2\", \
                 GoVersion:\"go1.15.5\"}\n",
                "1.20.2",
            ),
            (
                "containerd github.com/containerd/containerd v1.6.4 212e8b6fa2f\n",
                "1.6.4",
            ),
            (
                "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24\n",
                "1.7.24",
            ),
        ] {
            assert_eq!(version_in(says), Some(version(expected)), "{says}");
        }
        assert_eq!(version_in("usage: kubeadm"), None);
    }

    #[test]
    fn programs_of_another_release_are_named() {
        let release = version("1.20.2");
        for (program, own, fits) in [
            ("kubeadm", "1.20.2", true),
            ("kubeadm", "1.20.2-lvscare", true),
            ("kubeadm", "1.20.3", false),
            ("kubelet", "1.20.7", true),
            ("kubelet", "1.19.9", false),
            ("kubectl", "1.21.0", true),
            ("kubectl", "1.22.0", false),
        ] {
            assert_eq!(
                unfit(program, &version(own), &release).is_none(),
                fits,
                "{program} {own}"
            );
        }
    }

    #[test]
    fn containerd_must_speak_what_kubelet_and_crictl_speak() {
        for (own, release, crictl, fits) in [
            ("1.3.9", "1.20.0", false, true),
            ("1.3.9", "1.20.0", true, false),
            ("1.5.5", "1.26.0", false, false),
            ("1.6.4", "1.26.0", true, true),
            ("1.7.24", "1.35.4", true, true),
            ("1.7.24", "1.36.0", true, false),
            ("2.4.2", "1.37.2", true, true),
            ("2.0.0", "1.20.2", false, false),
        ] {
            let found = contradiction(&version(own), &version(release), crictl);
            assert_eq!(found.is_none(), fits, "{own} {release}: {found:?}");
        }
    }
}
