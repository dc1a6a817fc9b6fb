//! The sources of the default package that are ours, carried inside imagegen.
//!
//! Files of the package are in this crate, the Go programs in `imagegen/package/`; nothing is computed here.

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

macro_rules! program {
    ($path:literal) => {
        ($path, include_str!(concat!("../../package/", $path)))
    };
}

/// Go programs, built inside the Kubernetes source tree as `cmd/<folder>`.
pub(super) const PROGRAMS: &[(&str, &str)] = &[
    program!("crictl/containers.go"),
    program!("crictl/images.go"),
    program!("crictl/main.go"),
    program!("crictl/output.go"),
    program!("crictl/pods.go"),
    program!("crictl/runtime.go"),
    program!("podnet/api.go"),
    program!("podnet/cni.go"),
    program!("podnet/main.go"),
    program!("podnet/plan.go"),
    program!("podnet/podnet_test.go"),
    program!("podnet/routes.go"),
    program!("podnet/rules.go"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_carried() {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let programs = package.join("../package");
        let mut found = BTreeSet::new();
        let mut queue: Vec<_> = ["bin", "conf", "shell"]
            .map(|name| (package.to_owned(), package.join(name)))
            .into();
        queue.push((programs.clone(), programs));
        found.insert("README.md".to_owned());
        while let Some((base, dir)) = queue.pop() {
            for entry in fs::read_dir(dir)
                .expect("the sources are there")
                .map(Result::unwrap)
            {
                if entry.file_type().expect("a file type").is_dir() {
                    queue.push((base.clone(), entry.path()));
                } else {
                    let path = entry.path();
                    found.insert(
                        path.strip_prefix(&base)
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
