//! The sources of the default package that are ours, carried inside imagegen.
//!
//! The files themselves are in `imagegen/package/`; nothing is computed here.

macro_rules! asset {
    ($path:literal) => {
        ($path, include_str!(concat!("../../../package/", $path)))
    };
}

/// Files that go into the package, some with `@WORDS@` to fill in.
pub(super) const FILES: &[(&str, &str)] = &[
    asset!("README.md"),
    asset!("bin/kubelet-pre-start.sh"),
    asset!("conf/10-kubeadm.conf"),
    asset!("conf/containerd-config.toml"),
    asset!("conf/containerd.service"),
    asset!("conf/crictl.yaml"),
    asset!("conf/kubeadm.yaml"),
    asset!("conf/kubelet.service"),
    asset!("conf/net/podnet.yaml"),
    asset!("shell/docker.sh"),
    asset!("shell/init.sh"),
    asset!("shell/master.sh"),
];

/// Go programs, built inside the Kubernetes source tree as `cmd/<folder>`.
pub(super) const PROGRAMS: &[(&str, &str)] = &[
    asset!("crictl/containers.go"),
    asset!("crictl/images.go"),
    asset!("crictl/main.go"),
    asset!("crictl/output.go"),
    asset!("crictl/pods.go"),
    asset!("crictl/runtime.go"),
    asset!("podnet/api.go"),
    asset!("podnet/cni.go"),
    asset!("podnet/main.go"),
    asset!("podnet/plan.go"),
    asset!("podnet/podnet_test.go"),
    asset!("podnet/routes.go"),
    asset!("podnet/rules.go"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_carried() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("package");
        let mut found = BTreeSet::new();
        let mut queue = vec![folder.clone()];
        while let Some(dir) = queue.pop() {
            for entry in fs::read_dir(dir)
                .expect("the sources are there")
                .map(Result::unwrap)
            {
                if entry.file_type().expect("a file type").is_dir() {
                    queue.push(entry.path());
                } else {
                    let path = entry.path();
                    found.insert(
                        path.strip_prefix(&folder)
                            .expect("below")
                            .display()
                            .to_string(),
                    );
                }
            }
        }
        let carried: BTreeSet<String> = FILES
            .iter()
            .chain(PROGRAMS)
            .map(|(path, _)| (*path).to_owned())
            .collect();
        assert_eq!(found, carried);
    }
}
