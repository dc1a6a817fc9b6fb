//! The images that kubeadm and containerd ask for, chosen from those of the package.

use semver::Version;

use super::super::oci::describe::full_name;
use super::conf::{Kubeadm, Setting};
use super::images::{Archives, split};
use super::{PackedImage, Verdict};

/// The images that kubeadm asks for, from those that the package holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Of kube-apiserver and its siblings: `k8s.gcr.io`.
    pub(crate) repository: String,
    pub(crate) etcd_tag: String,
    /// The sandbox image, a full name.
    pub(crate) pause: String,
    pub(crate) coredns: Option<String>,
    /// Add-ons of kubeadm without an image.
    pub(crate) missing_addons: Vec<String>,
}

/// Chooses what kubeadm asks for, and reports what it would ask for in vain.
pub(super) fn choose(
    archives: &Archives,
    version: &Version,
    kubeadm: &Kubeadm,
    sandbox: Option<&Setting>,
    verdict: &mut Verdict,
) {
    let tag = format!("v{version}");
    let mut asked = Asked {
        archives,
        verdict,
        uses: Vec::new(),
    };
    let Some(repository) = repository(archives, &tag, kubeadm) else {
        asked.missing(&format!("kube-apiserver:{tag}"), "kube-apiserver");
        return asked.finish(None);
    };
    if let Some(own) = kubeadm
        .image_repository
        .as_ref()
        .filter(|own| own.value != repository)
    {
        asked.verdict.warnings.push(format!(
            "{}: imageRepository is `{}`, and the images are of `{repository}`, which nodes use",
            own.place, own.value
        ));
    }
    for name in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    ] {
        asked.need(&format!("{repository}/{name}:{tag}"), name);
    }
    let mut missing_addons = Vec::new();
    if archives.called("coredns").is_empty() {
        missing_addons.push("coredns".to_owned());
    }
    if archives.called("kube-proxy").is_empty() {
        missing_addons.push("kube-proxy".to_owned());
    } else {
        asked.need(&format!("{repository}/kube-proxy:{tag}"), "kube-proxy");
    }
    for addon in &missing_addons {
        asked.verdict.warnings.push(format!(
            "the package has no image of {addon}; kubeadm's add-on {addon} is left out"
        ));
    }
    let etcd_repository = match &kubeadm.etcd_repository {
        Some(own) => own.value.clone(),
        None => repository.clone(),
    };
    let etcd_tag = asked.newest(&etcd_repository, "etcd", kubeadm.etcd_tag.as_ref());
    if let Some(why) = etcd_tag.as_deref().and_then(|tag| unfit_etcd(tag, version)) {
        asked.verdict.errors.push(format!(
            "`{etcd_repository}/etcd:{}`: {why}",
            etcd_tag.as_deref().unwrap_or_default()
        ));
    }
    let pause = match sandbox {
        Some(own) => {
            let name = full_name(&own.value);
            asked.need_by(&name, "pause", &format!("{}: containerd", own.place));
            Some(name)
        }
        None => asked
            .newest(&repository, "pause", None)
            .map(|tag| format!("{repository}/pause:{tag}")),
    };
    let coredns = coredns(&repository, &mut asked);
    let choice = etcd_tag.zip(pause).map(|(etcd_tag, pause)| Choice {
        repository,
        etcd_tag,
        pause,
        coredns,
        missing_addons,
    });
    asked.finish(choice);
}

/// Why this etcd does not start with the flags that kubeadm of this release gives it: before 1.36
/// those named `--experimental-…`, which etcd 3.7 has no more, and from then on those of 3.6.
fn unfit_etcd(tag: &str, version: &Version) -> Option<String> {
    let mut numbers = tag
        .trim_start_matches('v')
        .split('.')
        .map(str::parse::<u64>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return None;
    };
    let needed = match ((major, minor), version.minor) {
        ((3, 7..) | (4.., _), ..36) => "etcd 3.6 or older",
        ((..=2, _) | (3, ..=5), 36..) => "etcd 3.6 or newer",
        _ => return None,
    };
    Some(format!(
        "kubeadm {version} gives etcd flags that it does not know; take {needed}"
    ))
}

/// The repository of a kube-apiserver of this release; that of kubeadm's configuration or one of
/// kubeadm's own if there are several.
fn repository(archives: &Archives, tag: &str, kubeadm: &Kubeadm) -> Option<String> {
    let own = kubeadm
        .image_repository
        .as_ref()
        .map(|own| own.value.as_str());
    let parents = archives
        .called("kube-apiserver")
        .into_iter()
        .filter_map(|reference| {
            let (repository, found) = split(reference);
            (found == tag).then(|| repository.rsplit_once('/').map_or("", |(parent, _)| parent))
        });
    parents
        .min_by_key(|parent| {
            (
                Some(*parent) != own,
                !matches!(*parent, "k8s.gcr.io" | "registry.k8s.io"),
            )
        })
        .map(str::to_owned)
}

/// firstboot sets `dns.imageRepository` and `dns.imageTag` to this image.
fn coredns(repository: &str, asked: &mut Asked<'_>) -> Option<String> {
    let mut found = asked.archives.called("coredns");
    let preferred = |name: &str| {
        let parent = split(name).0;
        parent != format!("{repository}/coredns/coredns")
            && parent != format!("{repository}/coredns")
    };
    found.sort_by_key(|name| preferred(name));
    let name = (*found.first()?).to_owned();
    if preferred(&name) {
        asked.verdict.warnings.push(format!(
            "CoreDNS is `{name}`, not of `{repository}`; kubeadm's dns.imageRepository and \
             dns.imageTag are set to it"
        ));
    }
    asked
        .uses
        .push((name.clone(), "kubeadm's add-on CoreDNS".to_owned()));
    Some(name)
}

/// Collects what is asked for, and what of it is missing.
struct Asked<'a> {
    archives: &'a Archives,
    verdict: &'a mut Verdict,
    uses: Vec<(String, String)>,
}

impl Asked<'_> {
    fn need(&mut self, image: &str, name: &str) {
        self.need_by(image, name, "kubeadm");
    }

    fn need_by(&mut self, image: &str, name: &str, by: &str) {
        if self.archives.images.contains_key(image) {
            self.uses.push((image.to_owned(), by.to_owned()));
            return;
        }
        let near = self.near(name);
        self.verdict.errors.push(format!(
            "{by} asks for `{image}`, which is not in the package; {near}"
        ));
    }

    fn missing(&mut self, what: &str, name: &str) {
        let near = self.near(name);
        self.verdict.errors.push(format!(
            "the package has no image of {what}, for which kubeadm asks; {near}"
        ));
    }

    /// What stands beside a name that is missing.
    fn near(&self, name: &str) -> String {
        let found = self.archives.called(name);
        if found.is_empty() {
            "add it to `images/` (`docker save` by that name): no registry is asked on first boot"
                .to_owned()
        } else {
            format!(
                "`images/` has `{}`; save the image by the full name",
                found.join("`, `")
            )
        }
    }

    /// The tag of `repository/name`: the wanted one, else the newest.
    fn newest(&mut self, repository: &str, name: &str, wanted: Option<&Setting>) -> Option<String> {
        let full = format!("{repository}/{name}");
        let tags = self.archives.tags(&full);
        if let Some(wanted) = wanted {
            let image = format!("{full}:{}", wanted.value);
            self.need_by(&image, name, &format!("{}: kubeadm", wanted.place));
            return Some(wanted.value.clone());
        }
        let Some(tag) = tags.last().cloned() else {
            self.missing(&full, name);
            return None;
        };
        if tags.len() > 1 {
            self.verdict.warnings.push(format!(
                "`{full}` has the tags {}; nodes use {tag}",
                tags.join(", ")
            ));
        }
        self.uses
            .push((format!("{full}:{tag}"), "kubeadm".to_owned()));
        Some(tag)
    }

    fn finish(self, choice: Option<Choice>) {
        self.verdict.choice = choice;
        for (name, by) in self.uses {
            self.verdict.images.push(PackedImage {
                name,
                archive: String::new(),
                named_by: vec![by],
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcd_must_know_the_flags_of_kubeadm() {
        for (tag, minor, fits) in [
            ("3.4.13-0", 20, true),
            ("3.6.16-0", 35, true),
            ("3.7.3-0", 35, false),
            ("3.7.3-0", 36, true),
            ("3.5.16-0", 36, false),
            ("latest", 36, true),
        ] {
            let found = unfit_etcd(tag, &Version::new(1, minor, 0));
            assert_eq!(found.is_none(), fits, "{tag} {minor}: {found:?}");
        }
    }
}
