//! The table of modules: which versions, which programs, and how they are built.

use super::{Module, Program, Stamp};

const fn program(package: &'static str, file: &'static str) -> Program {
    Program { package, file }
}

macro_rules! files {
    ($name:literal $(, $more:literal)*) => {
        &[
            ("go.mod", include_str!(concat!("../../go/", $name, "/go.mod"))),
            ("go.sum", include_str!(concat!("../../go/", $name, "/go.sum"))),
            $(($more, include_str!(concat!("../../go/", $name, "/", $more))),)*
        ]
    };
}

/// The programs of Kubernetes that a cluster runs.
pub(crate) const KUBERNETES: [&str; 7] = [
    "kubeadm",
    "kubelet",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubectl",
];

macro_rules! kubernetes_stamps {
    ($($package:literal),*) => {
        &[$(
            (concat!($package, ".gitVersion"), Stamp::V),
            (concat!($package, ".gitMajor"), Stamp::Major),
            (concat!($package, ".gitMinor"), Stamp::Minor),
            (concat!($package, ".gitTreeState"), Stamp::Text("clean")),
            (concat!($package, ".buildDate"), Stamp::Text("1970-01-01T00:00:00Z")),
        )*]
    };
}

/// As `hack/lib/version.sh` of Kubernetes stamps them. No commit: a module does not say its own.
const KUBERNETES_STAMPS: &[(&str, Stamp)] = kubernetes_stamps!(
    "k8s.io/component-base/version",
    "k8s.io/client-go/pkg/version"
);

macro_rules! kubernetes {
    ($const:ident, $name:literal, $version:literal, pause $pause:literal) => {
        pub(crate) static $const: Module = Module {
            name: $name,
            version: $version,
            files: files!($name),
            programs: &[
                program("k8s.io/kubernetes/cmd/kubeadm", "kubeadm"),
                program("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
                program("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
                program(
                    "k8s.io/kubernetes/cmd/kube-controller-manager",
                    "kube-controller-manager",
                ),
                program("k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
                program("k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy"),
                program("k8s.io/kubernetes/cmd/kubectl", "kubectl"),
            ],
            tags: "selinux,notest,grpcnotrace",
            stamps: KUBERNETES_STAMPS,
            tests: &[],
            cgo: false,
            // kubeadm with a wrong version looks for wrong images; pause is C and lies in the same
            // module.
            after: concat!(
                "test \"$(/tmp/out/kubeadm version -o short)\" = v",
                $version,
                "\n",
                "module=$(go list -m -f '{{.Dir}}' k8s.io/kubernetes)\n",
                "gcc -Os -Wall -Werror -static -DVERSION=v",
                $pause,
                " -Wl,--build-id=none -s ",
                "-o /tmp/out/pause \"$module/build/pause/linux/pause.c\"\n",
            ),
        };
    };
}

kubernetes!(KUBERNETES_1_37, "kubernetes-1.37", "1.37.2", pause "3.10.2");
kubernetes!(KUBERNETES_1_36, "kubernetes-1.36", "1.36.3", pause "3.10.2");
kubernetes!(KUBERNETES_1_35, "kubernetes-1.35", "1.35.4", pause "3.10.1");
kubernetes!(KUBERNETES_1_34, "kubernetes-1.34", "1.34.4", pause "3.10.1");
kubernetes!(KUBERNETES_1_33, "kubernetes-1.33", "1.33.13", pause "3.10");
kubernetes!(KUBERNETES_1_32, "kubernetes-1.32", "1.32.13", pause "3.10");
kubernetes!(KUBERNETES_1_31, "kubernetes-1.31", "1.31.14", pause "3.10");
kubernetes!(KUBERNETES_1_30, "kubernetes-1.30", "1.30.14", pause "3.9");
kubernetes!(KUBERNETES_1_29, "kubernetes-1.29", "1.29.6", pause "3.9");

macro_rules! etcd {
    ($const:ident, $name:literal, $version:literal) => {
        pub(crate) static $const: Module = Module {
            name: $name,
            version: $version,
            files: files!($name),
            programs: &[
                program("go.etcd.io/etcd/server/v3", "etcd"),
                program("go.etcd.io/etcd/etcdctl/v3", "etcdctl"),
                program("go.etcd.io/etcd/etcdutl/v3", "etcdutl"),
            ],
            tags: "",
            stamps: &[],
            tests: &[],
            cgo: false,
            after: "",
        };
    };
}

etcd!(ETCD_3_7, "etcd-3.7", "3.7.3");
etcd!(ETCD_3_6, "etcd-3.6", "3.6.16");

pub(crate) static CONTAINERD: Module = Module {
    name: "containerd-2.4",
    version: "2.4.2",
    files: files!("containerd-2.4"),
    programs: &[
        program(
            "github.com/containerd/containerd/v2/cmd/containerd",
            "containerd",
        ),
        program(
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            "containerd-shim-runc-v2",
        ),
        program("github.com/containerd/containerd/v2/cmd/ctr", "ctr"),
    ],
    // The snapshotters left out need cgo or kernel modules that the node image does not have.
    tags: "osusergo,netgo,static_build,no_btrfs,no_devmapper,no_zfs",
    stamps: &[
        (
            "github.com/containerd/containerd/v2/version.Version",
            Stamp::V,
        ),
        (
            "github.com/containerd/containerd/v2/version.Package",
            Stamp::Text("github.com/containerd/containerd/v2"),
        ),
    ],
    tests: &[],
    cgo: false,
    after: "",
};

pub(crate) static CRICTL: Module = Module {
    name: "cri-tools-1.37",
    version: "1.37.0",
    files: files!("cri-tools-1.37"),
    programs: &[program("sigs.k8s.io/cri-tools/cmd/crictl", "crictl")],
    tags: "",
    stamps: &[("sigs.k8s.io/cri-tools/pkg/version.Version", Stamp::Plain)],
    tests: &[],
    cgo: false,
    after: "",
};

macro_rules! plugins {
    ($($kind:literal / $name:literal),* $(,)?) => {
        &[$(program(
            concat!("github.com/containernetworking/plugins/plugins/", $kind, "/", $name),
            $name,
        )),*]
    };
}

pub(crate) static CNI_PLUGINS: Module = Module {
    name: "cni-plugins-1.10",
    version: "1.10.0",
    files: files!("cni-plugins-1.10"),
    programs: plugins!(
        "ipam" / "dhcp",
        "ipam" / "host-local",
        "ipam" / "static",
        "main" / "bridge",
        "main" / "dummy",
        "main" / "host-device",
        "main" / "ipvlan",
        "main" / "loopback",
        "main" / "macvlan",
        "main" / "ptp",
        "main" / "tap",
        "main" / "vlan",
        "meta" / "bandwidth",
        "meta" / "firewall",
        "meta" / "portmap",
        "meta" / "sbr",
        "meta" / "tuning",
        "meta" / "vrf",
    ),
    tags: "",
    stamps: &[(
        "github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion",
        Stamp::V,
    )],
    tests: &[],
    cgo: false,
    after: "",
};

/// flannel's own CNI plugin. Its present home, `github.com/flannel-io/cni-plugin`, is not served as
/// a module; this is the last release of the plugins' repository that held it.
pub(crate) static FLANNEL_CNI: Module = Module {
    name: "flannel-cni-0.9",
    version: "0.9.1",
    files: files!("flannel-cni-0.9"),
    programs: &[program(
        "github.com/containernetworking/plugins/plugins/meta/flannel",
        "flannel",
    )],
    tags: "",
    stamps: &[(
        "github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion",
        Stamp::V,
    )],
    tests: &[],
    cgo: false,
    after: "",
};

pub(crate) static FLANNEL: Module = Module {
    name: "flannel-0.28",
    version: "0.28.10",
    files: files!(
        "flannel-0.28",
        "tencent-vpc/go.mod",
        "tencent-vpc/v20170312/vpc.go"
    ),
    programs: &[
        program("github.com/flannel-io/flannel", "flanneld"),
        program(
            "github.com/flannel-io/flannel/cmd/install_conf",
            "install-conf",
        ),
    ],
    tags: "osusergo,netgo",
    stamps: &[(
        "github.com/flannel-io/flannel/pkg/version.Version",
        Stamp::V,
    )],
    tests: &[],
    // Its UDP backend is C on amd64, and the main package imports every backend.
    cgo: true,
    after: "",
};

pub(crate) static COREDNS: Module = Module {
    name: "coredns-1.15",
    version: "1.15.0",
    files: files!("coredns-1.15"),
    programs: &[program("github.com/coredns/coredns", "coredns")],
    tags: "",
    stamps: &[],
    tests: &[],
    cgo: false,
    after: "",
};

/// Kubernetes' own end-to-end tests, and the programs of the images that they run.
pub(crate) static CONFORMANCE: Module = Module {
    name: "conformance-1.37",
    version: "1.37.2",
    files: files!("conformance-1.37", "tests.go"),
    programs: &[
        program("k8s.io/kubernetes/test/images/agnhost", "agnhost"),
        program("k8s.io/kubernetes/test/images/nonewprivs", "nnp"),
        program(
            "k8s.io/kubernetes/test/images/regression-issue-74839",
            "regression-issue-74839",
        ),
        program("k8s.io/sample-apiserver", "sample-apiserver"),
    ],
    tests: &[program("k8s.io/kubernetes/test/e2e", "e2e.test")],
    tags: "selinux,grpcnotrace",
    stamps: KUBERNETES_STAMPS,
    cgo: false,
    // Files that upstream's Dockerfiles copy.
    after: concat!(
        "images=$(go list -m -f '{{.Dir}}' k8s.io/kubernetes)/test/images\n",
        "cp \"$images\"/agnhost/porter/localhost.crt \"$images\"/agnhost/porter/localhost.key /tmp/out/\n",
        "for name in kitten nautilus; do\n",
        "  cp \"$images/$name/html/$name.jpg\" /tmp/out/\n",
        "  cp \"$images/$name/html/data.json\" \"/tmp/out/$name.json\"\n",
        "done\n",
    ),
};

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    const ALL: &[&Module] = &[
        &KUBERNETES_1_37,
        &KUBERNETES_1_36,
        &KUBERNETES_1_35,
        &KUBERNETES_1_34,
        &KUBERNETES_1_33,
        &KUBERNETES_1_32,
        &KUBERNETES_1_31,
        &KUBERNETES_1_30,
        &KUBERNETES_1_29,
        &ETCD_3_7,
        &ETCD_3_6,
        &CONTAINERD,
        &CRICTL,
        &CNI_PLUGINS,
        &FLANNEL_CNI,
        &FLANNEL,
        &COREDNS,
        &CONFORMANCE,
    ];

    #[test]
    fn every_module_requires_the_version_it_is_named_by() {
        for module in ALL {
            let text = module.files[0].1;
            let version = format!(" v{}", module.version);
            assert!(
                text.contains(&version),
                "{}: no{version} in go.mod",
                module.name
            );
            for program in module.programs {
                let root = program
                    .package
                    .split('/')
                    .take(3)
                    .collect::<Vec<_>>()
                    .join("/");
                assert!(
                    text.contains(&root),
                    "{}: {root} is not required",
                    module.name
                );
                assert!(
                    text.contains(program.package),
                    "{}: {}",
                    module.name,
                    program.package
                );
            }
        }
    }

    #[test]
    fn every_folder_of_wrapper_modules_is_used() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("go");
        let mut found: Vec<_> = fs::read_dir(folder)
            .expect("go/ is there")
            .map(|entry| entry.expect("an entry"))
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().into_string().expect("UTF-8"))
            .collect();
        found.sort();
        let mut used: Vec<_> = ALL.iter().map(|module| module.name.to_owned()).collect();
        used.sort();
        assert_eq!(found, used);
    }
}
