//! The sources of the default package that are ours, carried inside imagegen.
//!
//! Nothing is computed here.

macro_rules! asset {
    ($path:literal) => {
        ($path, include_str!(concat!("../", $path)))
    };
}

/// Files that go into the package, some with `@WORDS@` to fill in.
pub(super) const FILES: &[(&str, &str)] = &[
    asset!("README.md"),
    asset!("bin/kubelet-pre-start.sh"),
    asset!("conf/10-kubeadm.conf"),
    asset!("conf/containerd.service"),
    asset!("conf/crictl.yaml"),
    ("conf/kubeadm.yaml", KUBEADM),
    asset!("conf/kubelet.service"),
    asset!("conf/net/kube-flannel.yaml"),
    asset!("shell/docker.sh"),
    asset!("shell/init.sh"),
    asset!("shell/master.sh"),
];

/// The base of kubeadm's configuration.
pub(super) const KUBEADM: &str = include_str!("../conf/kubeadm.yaml");

/// containerd's configuration for 1.x and for 2.x; the package has one of them.
pub(super) const CONTAINERD_1: (&str, &str) = (
    "conf/containerd-config.toml",
    include_str!("../conf/containerd-config-1.toml"),
);
pub(super) const CONTAINERD_2: (&str, &str) = (
    "conf/containerd-config.toml",
    include_str!("../conf/containerd-config-2.toml"),
);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_carried() {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = BTreeSet::from(["README.md".to_owned()]);
        let mut queue: Vec<_> = ["bin", "conf", "shell"]
            .map(|name| package.join(name))
            .into();
        while let Some(dir) = queue.pop() {
            for entry in fs::read_dir(dir)
                .expect("the sources are there")
                .map(Result::unwrap)
            {
                let path = entry.path();
                if entry.file_type().expect("a file type").is_dir() {
                    queue.push(path);
                } else {
                    let name = path
                        .strip_prefix(package)
                        .expect("below")
                        .display()
                        .to_string();
                    // Two sources of one file of the package.
                    found.insert(
                        name.replace("-config-1.", "-config.")
                            .replace("-config-2.", "-config."),
                    );
                }
            }
        }
        let carried: BTreeSet<String> = FILES
            .iter()
            .chain([&CONTAINERD_1, &CONTAINERD_2])
            .map(|(path, _)| (*path).to_owned())
            .collect();
        assert_eq!(found, carried);
    }
}
