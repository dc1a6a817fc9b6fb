//! `imagegen package inspect` of packages with docker.

use serde_json::Value;

use crate::package;
use crate::package_verdict::{inspect, lines, part};
use crate::work::Work;

/// Upstream's archive of docker 20.10 and later.
const DOCKER: [&str; 8] = [
    "docker/containerd",
    "docker/containerd-shim-runc-v2",
    "docker/ctr",
    "docker/docker",
    "docker/docker-init",
    "docker/docker-proxy",
    "docker/dockerd",
    "docker/runc",
];

/// The verdict on a package with `docker/docker.tgz` of `programs` and `changed` files.
fn verdict(programs: &[&str], changed: &[(&str, &[u8])]) -> Value {
    let work = Work::new();
    package::folder(&work.path("kube"), changed);
    std::fs::remove_dir_all(work.path("kube/containerd")).expect("removing containerd");
    let archive = package::runtime(programs);
    std::fs::remove_file(work.path("kube/bin/crictl")).expect("removing crictl");
    std::fs::create_dir_all(work.path("kube/docker")).expect("a folder");
    std::fs::write(work.path("kube/docker/docker.tgz"), archive).expect("writing");
    inspect(&work, "kube")
}

fn accepted(changed: &[(&str, &[u8])]) -> Value {
    let found = verdict(&DOCKER, changed);
    assert_eq!(lines(&found, "errors"), "", "{found:#}");
    found
}

fn has_part(found: &Value, name: &str) -> bool {
    let mut parts = found["parts"].as_array().expect("a list").iter();
    parts.any(|part| part["name"] == name)
}

fn refused(programs: &[&str], changed: &[(&str, &[u8])], words: &[&str]) {
    let found = verdict(programs, changed);
    let printed = lines(&found, "errors");
    assert_eq!(printed.lines().count(), words.len(), "{printed}");
    for word in words {
        assert!(printed.contains(word), "`{word}` is not in: {printed}");
    }
}

/// kubeadm's configuration of a release, with images of it.
fn release(version: &str) -> (Vec<u8>, Vec<u8>) {
    let kubeadm = format!("kind: ClusterConfiguration\nkubernetesVersion: v{version}\n");
    let tag = format!("v{version}");
    let names = [
        format!("k8s.gcr.io/kube-apiserver:{tag}"),
        format!("k8s.gcr.io/kube-controller-manager:{tag}"),
        format!("k8s.gcr.io/kube-scheduler:{tag}"),
        "k8s.gcr.io/etcd:3.5.16-0".to_owned(),
        "k8s.gcr.io/pause:3.2".to_owned(),
    ];
    let images = package::saved(&names.each_ref().map(String::as_str), "amd64");
    (kubeadm.into_bytes(), images)
}

#[test]
fn docker_archive_gives_nodes_on_docker() {
    let found = accepted(&[("conf/containerd.service", b"[Service]\n")]);
    assert_eq!(found["container_runtime"], "dockershim");
    let of = |name: &str| part(&found, name);
    assert_eq!(
        of("docker/docker.tgz: docker/dockerd"),
        ("used", "/usr/bin/dockerd")
    );
    for name in ["docker.service", "daemon.json", "crictl.yaml"] {
        assert_eq!(of(&format!("conf/{name}")).0, "supplied", "{name}");
    }
    assert_eq!(of("conf/containerd.service").0, "not-used");
    assert_eq!(of("/opt/cni/bin/").0, "supplied");
    assert!(!has_part(&found, "/usr/bin/crictl"));
    assert_eq!(of("images/all.tar").1, "5 image(s) in docker's store");
    let (state, changes) = of("conf/kubeadm.yaml");
    assert_eq!(state, "changed");
    assert!(
        changes.contains("imageGCHighThresholdPercent is 100"),
        "{changes}"
    );
}

#[test]
fn docker_that_cannot_run_is_refused() {
    let old: Vec<&str> = DOCKER
        .into_iter()
        .filter(|name| !name.ends_with("runc-v2"))
        .collect();
    refused(&old, &[], &["older than 20.10 and cannot start containers"]);
    let part: Vec<&str> = DOCKER
        .into_iter()
        .filter(|name| !name.ends_with("/runc") && !name.ends_with("/docker"))
        .collect();
    refused(
        &part,
        &[],
        &["the runtime lacks docker, runc: add it to `bin/` or to the archive in `docker/`"],
    );
}

#[test]
fn kubernetes_without_dockershim_needs_cri_dockerd() {
    let (kubeadm, images) = release("1.24.17");
    let changed: [(&str, &[u8]); 2] =
        [("conf/kubeadm.yaml", &kubeadm), ("images/all.tar", &images)];
    refused(
        &DOCKER,
        &changed,
        &["speaks to docker only through cri-dockerd (from 1.24 on), which the package lacks"],
    );
    let program = package::runtime(&["cri-dockerd/cri-dockerd"]);
    let unit = b"[Service]\nExecStart=/usr/bin/cri-dockerd --container-runtime-endpoint fd://\n";
    let more: [(&str, &[u8]); 3] = [
        ("docker/cri-dockerd-0.3.9.amd64.tgz", &program),
        ("conf/cri-docker.service", unit),
        ("conf/cri-docker.socket", b"[Socket]\n"),
    ];
    let found = accepted(&[&changed[..], &more[..]].concat());
    assert_eq!(found["container_runtime"], "cri-dockerd");
    let of = |name: &str| part(&found, name).1;
    assert!(of("conf/cri-docker.service").contains("the package's sandbox image"));
    assert!(of("conf/cri-docker.socket").contains("makes its socket itself"));
    assert_eq!(part(&found, "/usr/bin/crictl").0, "supplied");
}

#[test]
fn configuration_of_docker_is_completed() {
    let daemon = br#"{
  "registry-mirrors": ["https://example.org"],
  "graph": "/data/docker",
  "hosts": ["fd://"],
  "storage-driver": "devicemapper",
  "features": {"containerd-snapshotter": true}
}"#;
    let found = accepted(&[("conf/daemon.json", daemon)]);
    let (state, detail) = part(&found, "conf/daemon.json");
    assert_eq!(state, "changed");
    for words in [
        "graph is /var/lib/docker",
        "storage-driver is overlay2",
        "containerd-snapshotter is false",
        "hosts has unix:///var/run/docker.sock",
        "native.cgroupdriver is systemd, as the kubelet's",
    ] {
        assert!(detail.contains(words), "{words}: {detail}");
    }
    let whole = br#"{"storage-driver": "overlay2", "exec-opts": ["native.cgroupdriver=systemd"]}"#;
    let found = accepted(&[("conf/daemon.json", whole)]);
    assert_eq!(part(&found, "conf/daemon.json").0, "used");
}

#[test]
fn configuration_of_docker_that_cannot_work_is_refused() {
    let kubelet = b"kind: ClusterConfiguration\nkubernetesVersion: v1.20.2\n---\n\
        kind: KubeletConfiguration\ncgroupDriver: cgroupfs\n";
    let systemd = b"{\n  \"exec-opts\": [\"native.cgroupdriver=systemd\"]\n}";
    for (changed, word) in [
        (
            &[("conf/daemon.json", b"{\n  \"hosts\": [,]\n}".as_slice())][..],
            "conf/daemon.json:2:13: not JSON",
        ),
        (
            &[("conf/daemon.json", b"{\n  \"userns-remap\": \"default\"\n}")],
            "conf/daemon.json:2:4: userns-remap moves",
        ),
        (
            &[(
                "conf/daemon.json",
                b"{\"exec-opts\": [\"native.cgroupdriver=x\"]}",
            )],
            "conf/daemon.json:1:17: native.cgroupdriver is `x`; write systemd",
        ),
        (
            &[
                ("conf/daemon.json", systemd),
                ("conf/kubeadm.yaml", kubelet),
            ],
            "cgroupDriver is cgroupfs, and conf/daemon.json:2:18 makes docker's systemd",
        ),
        (
            &[(
                "conf/docker.service",
                b"[Service]\nExecStart=/usr/bin/other\n",
            )],
            "conf/docker.service: no `ExecStart` starts dockerd",
        ),
        (
            &[(
                "conf/docker.service",
                b"[Service]\nExecStart=/usr/bin/dockerd -s overlay2\n",
            )],
            "conf/docker.service:2: `-s` on dockerd's command line",
        ),
        (
            &[
                (
                    "conf/docker.service",
                    b"[Service]\nExecStart=dockerd --log-driver=none\n",
                ),
                ("conf/daemon.json", b"{\"log-driver\": \"json-file\"}"),
            ],
            "conf/docker.service:2: `--log-driver` is in conf/daemon.json too",
        ),
        (
            &[(
                "conf/docker.service",
                b"[Service]\nType=notify\nExecStart=/usr/bin/dockerd \\\n  --data-root /data \\\n  -D\n",
            )],
            "conf/docker.service:3: `--data-root` on dockerd's command line",
        ),
    ] {
        refused(&DOCKER, changed, &[word]);
    }
}

/// Debian's and docker's own units expect units that the image does not have.
#[test]
fn unit_of_docker_is_made_to_fit() {
    let unit = b"[Unit]\nAfter=network.target docker.socket containerd.service\n\
        Requires=docker.socket\n[Service]\nType=notify\n\
        ExecStart=/usr/local/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock\n";
    let found = accepted(&[("conf/docker.service", unit)]);
    assert_eq!(part(&found, "conf/docker.service").0, "changed");
    let plain = b"[Unit]\nAfter=network.target\n[Service]\nExecStart=/usr/bin/dockerd\n";
    let found = accepted(&[("conf/docker.service", plain)]);
    assert_eq!(part(&found, "conf/docker.service").0, "used");
}

/// crictl asks the socket of the node's runtime, whatever the package was written for.
#[test]
fn crictl_asks_the_runtime_of_the_node() {
    let other = b"runtime-endpoint: unix:///run/containerd/containerd.sock\n";
    let found = accepted(&[("conf/crictl.yaml", other)]);
    assert_eq!(part(&found, "conf/crictl.yaml").0, "not-used");
    let own = b"runtime-endpoint: unix:///run/dockershim.sock\n";
    let found = accepted(&[("conf/crictl.yaml", own)]);
    assert_eq!(part(&found, "conf/crictl.yaml").0, "used");
}
