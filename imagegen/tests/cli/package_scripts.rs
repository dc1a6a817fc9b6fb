//! sealos's scripts in a package: known work is done by the image, other lines are not lost. And
//! packages of releases that are too old.

use crate::package_verdict::{accepted, lines, part, refused, verdict};

#[test]
fn line_that_the_image_does_not_do_is_refused_until_it_is_taken_over() {
    let script = b"#!/bin/bash\nmodprobe -- ip_vs\n  modprobe -- nfs\ncp ../bin/* /usr/bin\n";
    let words = "shell/init.sh:3: `modprobe -- nfs`: nothing on a node does this";
    refused(&[("shell/init.sh", script)], &[words]);
    for (file, text) in [
        ("hooks/before-role", "#!/bin/sh\nmodprobe -- nfs\n"),
        ("hooks/waived", "modprobe -- nfs\n"),
    ] {
        let work = crate::work::Work::new();
        let files: [(&str, &[u8]); 2] = [("shell/init.sh", script), (file, text.as_bytes())];
        crate::package::folder(&work.path("kube"), &files);
        let path = work.path("kube/hooks/waived");
        if path.exists() {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            std::fs::set_permissions(path, mode).expect("changing its mode");
        }
        let output = work.run(&["package", "inspect", "kube"]);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{file}: {printed}");
    }
}

#[test]
fn scripts_of_sealos_are_done_by_the_image() {
    let pre_start = b"#!/bin/bash\nmodprobe -- ip_vs_sh\nsysctl --system\nswapoff -a\nexit 0\n";
    let unit =
        b"[Service]\nExecStart=/usr/bin/kubelet\nExecStartPre=/usr/bin/kubelet-pre-start.sh\n";
    let found = accepted(&[
        ("bin/kubelet-pre-start.sh", pre_start),
        ("conf/kubelet.service", unit),
        (
            "shell/master.sh",
            b"kubeadm init --config ../conf/kubeadm.yaml\n",
        ),
    ]);
    assert_eq!(part(&found, "bin/kubelet-pre-start.sh").0, "not-used");
    assert_eq!(part(&found, "conf/kubelet.service").0, "changed");
    assert_eq!(part(&found, "shell/master.sh").0, "not-used");
}

#[test]
fn release_before_1_15_is_refused() {
    let kubeadm = b"kind: ClusterConfiguration\nkubernetesVersion: v1.14.1\n";
    let printed = lines(&verdict(&[("conf/kubeadm.yaml", kubeadm)]), "errors");
    assert!(
        printed.contains("Kubernetes 1.14.1 is older than 1.15"),
        "{printed}"
    );
}
