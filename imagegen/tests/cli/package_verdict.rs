//! `imagegen package inspect`: what becomes of a package, by the classes of `cases/pkg-*` and
//! `cases/manifest-*`.

use std::fs;
use std::io::{Read as _, Write as _};

use serde_json::Value;
use tar::EntryType;

use crate::package::{self, Raw};
use crate::work::{Work, stderr};

/// The verdict on a valid package with `changed` files.
pub(crate) fn verdict(changed: &[(&str, &[u8])]) -> Value {
    let work = Work::new();
    package::folder(&work.path("kube"), changed);
    inspect(&work, "kube")
}

pub(crate) fn inspect(work: &Work, name: &str) -> Value {
    let output = work.run(&["package", "inspect", name, "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    let valid = value["errors"] == serde_json::json!([]);
    assert_eq!(output.status.success(), valid, "{value:#}");
    value
}

pub(crate) fn lines(verdict: &Value, key: &str) -> String {
    let lines = verdict[key].as_array().expect("a list").iter();
    lines
        .map(|line| line.as_str().expect("a text").to_owned() + "\n")
        .collect()
}

/// The errors of a package contain all of `words`, and no other error.
pub(crate) fn refused(changed: &[(&str, &[u8])], words: &[&str]) {
    let found = verdict(changed);
    let printed = lines(&found, "errors");
    assert_eq!(printed.lines().count(), words.len(), "{printed}");
    for word in words {
        assert!(printed.contains(word), "`{word}` is not in: {printed}");
    }
}

pub(crate) fn accepted(changed: &[(&str, &[u8])]) -> Value {
    let found = verdict(changed);
    assert_eq!(lines(&found, "errors"), "");
    found
}

/// State and detail of a part.
pub(crate) fn part<'a>(verdict: &'a Value, name: &str) -> (&'a str, &'a str) {
    let parts = verdict["parts"].as_array().expect("a list");
    let part = parts.iter().find(|part| part["name"] == name);
    let part = part.unwrap_or_else(|| panic!("no part `{name}`: {verdict:#}"));
    let text = |key: &str| part[key].as_str().expect("a text");
    (text("state"), text("detail"))
}

pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut encoder = liblzma::read::XzEncoder::new(bytes, 1);
    encoder.read_to_end(&mut packed).expect("in memory");
    packed
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).expect("in memory");
    packer.finish().expect("in memory")
}

#[test]
fn programs_of_another_machine_are_refused() {
    for (bytes, words) in [
        (package::elf(0xb7), "bin/kubelet: a program for aarch64"),
        (package::elf(3), "bin/kubelet: a program for i386"),
        (
            b"<html>404 Not Found</html>".to_vec(),
            "bin/kubelet: no program but a page",
        ),
        (
            b"  <!DOCTYPE html>".to_vec(),
            "bin/kubelet: no program but a page",
        ),
        (
            b"Not Found".to_vec(),
            "bin/kubelet: neither an ELF program nor",
        ),
        (Vec::new(), "bin/kubelet: empty"),
        (
            b"#!/bin/sh\r\n".to_vec(),
            "bin/kubelet: line 1 ends with CR LF",
        ),
    ] {
        refused(&[("bin/kubelet", &bytes)], &[words]);
    }
    let mut raw = Raw::new();
    raw.add("bin/containerd", EntryType::Regular, "", &package::elf(62));
    raw.add("bin/runc", EntryType::Regular, "", &package::elf(0xb7));
    refused(
        &[("containerd/containerd.tar.gz", &raw.bytes())],
        &["containerd/containerd.tar.gz: bin/runc: a program for aarch64"],
    );
    let image = package::saved(&["example.org/a:1"], "arm64");
    refused(
        &[("images/a.tar", &image)],
        &["image `example.org/a:1` is for arm64"],
    );
}

#[test]
fn broken_files_are_refused_with_their_place() {
    let template = b"apiVersion: v1\nkind: {{ .Kind }}\nmetadata:\n\tname: x\n";
    refused(
        &[("conf/net/net.yaml", template)],
        &["conf/net/net.yaml:2:8: "],
    );
    let base = b"kind: ClusterConfiguration\nkubernetesVersion: v1.20.2\napiServer:\n\
        \x20 certSANs:\n  - {{ .VIP }}\n";
    refused(&[("conf/kubeadm.yaml", base)], &["conf/kubeadm.yaml:5:6: "]);
    let quoted = b"kind: ClusterConfiguration\nkubernetesVersion: v1.20.2\napiServer:\n\
        \x20 certSANs:\n  - \"{{ .VIP }}\"\n";
    refused(
        &[("conf/kubeadm.yaml", quoted)],
        &["conf/kubeadm.yaml:5:5: a template is left"],
    );
    let crlf = b"#!/bin/sh\r\necho hi\r\n";
    refused(
        &[("hooks/before-role", crlf)],
        &["hooks/before-role: line 1 ends with CR LF"],
    );
    let script = b"#!/bin/sh\necho hi\n";
    refused(
        &[("hooks/after-role.sh", script)],
        &["call it `hooks/after-role`"],
    );
    refused(
        &[("hooks/after_role.py", script)],
        &["call it `hooks/after-role`"],
    );
    refused(
        &[("hooks/build", b"echo hi\n")],
        &["hooks/build: neither an ELF program nor"],
    );
}

#[test]
fn cgroup_drivers_are_made_equal_or_refused() {
    let toml = |systemd: &str| {
        format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n\
             sandbox_image = \"k8s.gcr.io/pause:3.2\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n{systemd}\n"
        )
    };
    let kubeadm = |driver: &str| {
        format!(
            "kind: ClusterConfiguration\nkubernetesVersion: v1.20.2\n---\n\
             kind: KubeletConfiguration\ncgroupDriver: {driver}\n"
        )
    };
    for (systemd, driver, place) in [
        (
            "SystemdCgroup = true",
            "cgroupfs",
            "conf/kubeadm.yaml:5:15: ",
        ),
        (
            "SystemdCgroup = false",
            "systemd",
            "conf/containerd-config.toml:5:17 makes",
        ),
    ] {
        let (toml, kubeadm) = (toml(systemd), kubeadm(driver));
        let files = [
            ("conf/containerd-config.toml", toml.as_bytes()),
            ("conf/kubeadm.yaml", kubeadm.as_bytes()),
        ];
        refused(&files, &[place]);
    }
    let (none, empty) = (toml(""), kubeadm(""));
    let files: [(&str, &[u8]); 2] = [
        ("conf/containerd-config.toml", none.as_bytes()),
        ("conf/kubeadm.yaml", empty.as_bytes()),
    ];
    let found = accepted(&files);
    assert_eq!(part(&found, "conf/containerd-config.toml").0, "changed");
    let detail = part(&found, "conf/kubeadm.yaml").1;
    assert!(
        detail.ends_with("cgroupDriver is systemd, as containerd's"),
        "{detail}"
    );
    let found = accepted(&[("conf/kubeadm.yaml", kubeadm("cgroupfs").as_bytes())]);
    assert_eq!(part(&found, "conf/kubeadm.yaml").0, "changed");
}

#[test]
fn entries_of_macos_are_left_out_and_named() {
    let work = Work::new();
    let mut raw = Raw::new();
    for name in [
        "._kube",
        "kube/._bin",
        "kube/.DS_Store",
        "__MACOSX/kube/._x",
    ] {
        raw.add(name, EntryType::Regular, "", b"\0\x05\x16\x07");
    }
    for name in [
        "kube/conf/net/._net.yaml",
        "kube/images/._all.tar",
        "kube/bin/._kubelet",
    ] {
        raw.add(name, EntryType::Regular, "", b"\0\x05\x16\x07");
    }
    package::files(|name, bytes| {
        raw.add(&format!("kube/{name}"), EntryType::Regular, "", bytes);
    });
    fs::write(work.path("kube.tgz"), gzip(&raw.bytes())).expect("writing");
    let found = inspect(&work, "kube.tgz");
    assert_eq!(lines(&found, "errors"), "");
    assert_eq!(part(&found, "kube/bin/._kubelet").0, "not-used");
}

#[test]
fn manifests_that_kubectl_takes_are_accepted() {
    let crd = b"apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
        metadata: {name: ms.example.net}\nspec:\n  group: example.net\n  names: {kind: M}\n\
        \x20 x: {enum: ['!=', =, =~]}\n  y: 0644\n";
    let custom = b"apiVersion: example.net/v1\nkind: M\nmetadata: {name: default}\n";
    accepted(&[("conf/net/b.yaml", crd), ("conf/net/a.yml", custom)]);
}

/// What containerd's own archive with everything lacks comes from the image.
#[test]
fn image_supplies_what_the_package_lacks() {
    let mut runtime = Raw::new();
    for name in [
        "usr/local/bin/containerd",
        "usr/local/sbin/runc",
        "opt/cni/bin/bridge",
    ] {
        runtime.add(
            &format!("./{name}"),
            EntryType::Regular,
            "",
            &package::elf(62),
        );
    }
    runtime.add(
        "./etc/systemd/system/containerd.service",
        EntryType::Regular,
        "",
        b"[Service]",
    );
    let runtime = gzip(&runtime.bytes());
    let mut raw = Raw::new();
    package::files(|name, bytes| {
        let unit = name == "conf/kubelet.service" || name == "conf/10-kubeadm.conf";
        if !unit && !name.starts_with("containerd/") {
            raw.add(&format!("any name/{name}"), EntryType::Regular, "", bytes);
        }
    });
    let name = "any name/containerd/cri-containerd-cni-linux.tar.gz";
    raw.add(name, EntryType::Regular, "", &runtime);
    let work = Work::new();
    fs::write(work.path("package.zip"), xz(&raw.bytes())).expect("writing");
    let found = inspect(&work, "package.zip");
    assert_eq!(lines(&found, "errors"), "");
    assert_eq!(part(&found, "/opt/cni/bin/").0, "supplied");
    for name in [
        "10-kubeadm.conf",
        "kubelet.service",
        "containerd.service",
        "crictl.yaml",
    ] {
        assert_eq!(
            part(&found, &format!("conf/{name}")).0,
            "supplied",
            "{name}"
        );
    }
    let of = |entry: &str| part(&found, &format!("{}: {entry}", &name[9..]));
    assert_eq!(of("usr/local/sbin/runc"), ("used", "/usr/bin/runc"));
    assert_eq!(of("opt/cni/bin/bridge"), ("used", "/opt/cni/bin/bridge"));
    assert_eq!(of("etc/systemd/system/containerd.service").0, "not-used");
    let table = work.run(&["package", "inspect", "package.zip"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(
        table.contains("A node image can be built of it."),
        "{table}"
    );
}

/// The layout of `fanux/cloud-kernel` for containerd: calico.yaml in both places, libraries,
/// scripts, read-me files.
#[test]
fn package_of_cloud_kernel_is_used_or_named() {
    let calico = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: kube-system}\n";
    let (metadata, other) = (
        br#"{"k8sVersion": "v1.20.2", "cniName": "calico", "arch": "amd64"}"#,
        br#"{"k8sVersion": "v1.22.8", "arch": "arm64"}"#,
    );
    let files: [(&str, &[u8]); 8] = [
        ("Metadata", metadata),
        ("README.md", b""),
        ("conf/calico.yaml", calico),
        ("conf/net/calico.yaml", calico),
        ("conf/docker.service", b"[Service]\n"),
        ("containerd/README.md", b"text"),
        ("lib64/libseccomp.so.2", b"\x7fELF"),
        ("shell/init.sh", b"#!/bin/sh\n"),
    ];
    let found = accepted(&files);
    for (name, state) in [
        ("Metadata", "used"),
        ("README.md", "not-used"),
        ("conf/calico.yaml", "not-used"),
        ("conf/net/calico.yaml", "used"),
        ("conf/docker.service", "not-used"),
        ("containerd/README.md", "not-used"),
        ("lib64/libseccomp.so.2", "not-used"),
        ("shell/init.sh", "not-used"),
    ] {
        assert_eq!(part(&found, name).0, state, "{name}");
    }
    let found = accepted(&[("conf/calico.yaml", calico)]);
    assert_eq!(part(&found, "conf/calico.yaml").0, "used");
    refused(
        &[("Metadata", other)],
        &["the package is for arm64", "k8sVersion is 1.22.8"],
    );
}

#[test]
fn package_without_a_runtime_is_refused() {
    for bytes in [gzip(b"<html>404</html>"), package::runtime(&["bin/ctr"])] {
        refused(
            &[("containerd/containerd.tar.gz", &bytes)],
            &["the runtime lacks containerd, runc"],
        );
    }
    let more = package::runtime(&["bin/crictl", "./bridge"]);
    let found = accepted(&[("containerd/more.tgz", &more)]);
    let of = |entry: &str| part(&found, &format!("containerd/more.tgz: {entry}"));
    assert_eq!(of("bin/crictl").1, "`bin/crictl` takes its place");
    assert_eq!(of("bridge"), ("used", "/opt/cni/bin/bridge"));
}

#[test]
fn unit_that_cannot_start_the_kubelet_is_changed() {
    let unit = b"[Service]\nExecStartPre=/usr/bin/kubelet-pre-start.sh\n";
    let found = accepted(&[("conf/kubelet.service", unit)]);
    assert_eq!(
        part(&found, "conf/kubelet.service"),
        (
            "changed",
            "line 2: `bin/` has no kubelet-pre-start.sh, which is no failure now"
        )
    );
    let found = accepted(&[
        ("conf/kubelet.service", unit),
        ("bin/kubelet-pre-start.sh", b"#!/bin/sh\nmount /data\n"),
    ]);
    assert_eq!(part(&found, "conf/kubelet.service").0, "used");
    assert!(lines(&found, "warnings").contains("bin/kubelet-pre-start.sh:2: `mount /data`"));
    let drop_in = b"[Service]\nEnvironment=\"A=--cgroup-driver=\"\n";
    let found = accepted(&[("conf/10-kubeadm.conf", drop_in)]);
    assert_eq!(
        part(&found, "conf/10-kubeadm.conf"),
        (
            "changed",
            "line 2: without `--cgroup-driver=`, which has no value"
        )
    );
}

#[test]
fn cluster_images_of_sealos_4_are_named() {
    let work = Work::new();
    let path = work.path("kube/registry/docker/registry/v2");
    fs::create_dir_all(&path).expect("a folder");
    fs::write(path.join("x"), "").expect("writing");
    fs::write(work.path("kube/Kubefile"), "FROM scratch").expect("writing");
    let output = work.run(&["package", "inspect", "kube"]);
    let printed = stderr(&output);
    assert!(
        printed.contains("marks a cluster image of sealos 4"),
        "{printed}"
    );
    assert_eq!(output.status.code(), Some(1));
}
