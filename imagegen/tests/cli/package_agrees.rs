//! The package's configuration and the topology: what is completed, what contradicts.

use serde_json::Value;

use crate::package;
use crate::package_verdict::{accepted, part, refused};
use crate::work::{PROD, Work, stderr};

/// The base of `fanux/cloud-kernel`'s packages, with more that people write.
const SHIPPED: &str = "apiVersion: kubeadm.k8s.io/v1beta1
kind: ClusterConfiguration
kubernetesVersion: v1.20.2
networking:
  podSubnet: 100.64.0.0/10
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: \"ipvs\"
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver:
imageGCHighThresholdPercent: 85
volumePluginDir: /usr/lib/kubelet/plugins
";

/// `imagegen plan` of a package with this base and these files.
fn plan(topology: &str, base: &str, more: &[(&str, &[u8])]) -> Result<Vec<String>, String> {
    let work = Work::new();
    work.topology(topology);
    let mut files = vec![("conf/kubeadm.yaml", base.as_bytes())];
    files.extend(more);
    package::folder(&work.path("kube"), &files);
    let output = work.run(&["plan", "--json", "-t", "cluster.yaml", "-p", "kube"]);
    if !output.status.success() {
        return Err(stderr(&output));
    }
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let changes = plan["package_changes"].as_array().expect("a list").iter();
    Ok(changes
        .map(|text| text.as_str().expect("a text").to_owned())
        .collect())
}

fn contains(lines: &[String], words: &str) {
    assert!(
        lines.iter().any(|line| line.contains(words)),
        "`{words}` is not in {lines:#?}"
    );
}

#[test]
fn plan_lists_every_change_of_the_package() {
    let changes = plan(PROD, SHIPPED, &[]).expect("a plan");
    for words in [
        "conf/kubeadm.yaml:5:14: networking.podSubnet is `100.64.0.0/10`; by cluster.yaml:10:9 it \
         is `10.244.0.0/16`",
        "conf/kubeadm.yaml:9:7: `ipvs.excludeCIDRs` gets `10.103.97.2/32`",
        "conf/kubeadm.yaml:14:30: imageGCHighThresholdPercent is 100",
        "conf/kubeadm.yaml:15:18: FlexVolume plugins are in /var/lib/kubelet/volume-plugins: \
         `/usr/lib/kubelet/plugins` is read-only",
        "cgroupDriver is systemd",
    ] {
        contains(&changes, words);
    }
    // The plan for people has the same.
    let work = Work::new();
    package::folder(
        &work.path("kube"),
        &[("conf/kubeadm.yaml", SHIPPED.as_bytes())],
    );
    let output = work.run(&["plan", "-t", "cluster.yaml", "-p", "kube"]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    for change in changes {
        assert!(printed.contains(&change), "{change}\n{printed}");
    }
}

#[test]
fn contradiction_has_both_places() {
    let base = SHIPPED.replace("100.64.0.0/10", "10.9.0.0/16");
    let error = plan(PROD, &base, &[]).expect_err("two pod ranges");
    let words = "conf/kubeadm.yaml:5:14: networking.podSubnet is `10.9.0.0/16`, and by \
                 cluster.yaml:10:9 it is `10.244.0.0/16`";
    assert!(error.contains(words), "{error}");
    let silent = PROD.replace("  pods: 10.244.0.0/16\n", "");
    let error = plan(&silent, &base, &[]).expect_err("two pod ranges");
    assert!(
        error.contains("as cluster.yaml has no `network.pods`"),
        "{error}"
    );
    let agreed = PROD.replace("10.244.0.0/16", "10.9.0.0/16");
    plan(&agreed, &base, &[]).expect("the same in both");

    let endpoint = SHIPPED.replace(
        "networking:",
        "controlPlaneEndpoint: lb.example.com:6443\nnetworking:",
    );
    let error = plan(PROD, &endpoint, &[]).expect_err("two endpoints");
    assert!(
        error.contains("conf/kubeadm.yaml:4:23: controlPlaneEndpoint"),
        "{error}"
    );
    let dns = format!("{SHIPPED}clusterDNS: [10.100.0.10]\n");
    let error = plan(PROD, &dns, &[]).expect_err("an address outside");
    assert!(
        error.contains("conf/kubeadm.yaml:16:14: clusterDNS"),
        "{error}"
    );
    // Documents are not written either.
    let work = Work::new();
    package::folder(
        &work.path("kube"),
        &[("conf/kubeadm.yaml", base.as_bytes())],
    );
    let output = work.run(&["userdata", "-t", "cluster.yaml", "-p", "kube"]);
    assert!(!output.status.success());
    assert_eq!(work.names(), ["cluster.yaml", "kube"]);
}

#[test]
fn pod_range_of_a_manifest_is_the_topologys() {
    let calico = b"apiVersion: apps/v1\nkind: DaemonSet\n\
        metadata: {name: calico-node, namespace: kube-system}\nspec:\n  template:\n    spec:\n      \
        containers:\n      - name: node\n        image: a/node:v3\n        env:\n        \
        - name: CALICO_IPV4POOL_CIDR\n          value: \"100.64.0.0/10\"\n";
    let image = package::saved(&["a/node:v3"], "amd64");
    let files: [(&str, &[u8]); 2] = [("conf/net/calico.yaml", calico), ("images/n.tar", &image)];
    let changes = plan(PROD, SHIPPED, &files).expect("firstboot sets it");
    contains(
        &changes,
        "conf/net/calico.yaml:12:18: document 1, DaemonSet kube-system/calico-node: \
         CALICO_IPV4POOL_CIDR is `100.64.0.0/10`",
    );
    let cilium = b"apiVersion: v1\nkind: ConfigMap\n\
        metadata: {name: cilium-config, namespace: kube-system}\n\
        data: {cluster-pool-ipv4-cidr: 10.0.0.0/8}\n";
    let error = plan(PROD, SHIPPED, &[("conf/net/cilium.yaml", cilium)]).expect_err("another");
    assert!(
        error.contains("cluster-pool-ipv4-cidr is `10.0.0.0/8`, and by cluster.yaml:10:9"),
        "{error}"
    );
}

/// The size of a node's part of the pod range counts, wherever it is written.
#[test]
fn node_range_of_the_package_counts() {
    let small = PROD.replace("10.244.0.0/16", "10.244.0.0/24");
    let error = plan(&small, SHIPPED, &[]).expect_err("room for one host");
    assert!(error.contains("room for 1 of 4 hosts"), "{error}");
    let flag = |size: &str| {
        SHIPPED.replace(
            "networking:",
            &format!(
                "controllerManager: {{extraArgs: {{node-cidr-mask-size: '{size}'}}}}\nnetworking:"
            ),
        )
    };
    plan(&small, &flag("27"), &[]).expect("room for eight");
    let error = plan(PROD, &flag("15"), &[]).expect_err("larger than the range");
    assert!(
        error.contains("smaller than the /15 of a single node"),
        "{error}"
    );
}

#[test]
fn settings_that_no_node_can_have_are_refused() {
    let base =
        |line: &str| format!("kind: ClusterConfiguration\nkubernetesVersion: v1.20.2\n{line}\n");
    for (line, words) in [
        (
            "etcd: {external: {endpoints: [a]}}",
            "conf/kubeadm.yaml:3:18: `etcd.external`",
        ),
        (
            "certificatesDir: /srv/pki",
            "conf/kubeadm.yaml:3:18: `certificatesDir` is `/srv/pki`",
        ),
        (
            "networking: {dnsDomain: k8s.example}",
            "conf/kubeadm.yaml:3:25: `networking.dnsDomain` is `k8s.example`",
        ),
        (
            "controllerManager: {extraArgs: {flex-volume-plugin-dir: /opt/a}}\n---\n\
             kind: KubeletConfiguration\nvolumePluginDir: /opt/b",
            "conf/kubeadm.yaml:3:57: kube-controller-manager's flex-volume-plugin-dir is `/opt/a`, \
             and the kubelet's volumePluginDir at conf/kubeadm.yaml:6:18 is `/opt/b`",
        ),
    ] {
        refused(&[("conf/kubeadm.yaml", base(line).as_bytes())], &[words]);
    }
    let given = base("controllerManager: {extraArgs: {flex-volume-plugin-dir: /opt/a}}");
    let found = accepted(&[("conf/kubeadm.yaml", given.as_bytes())]);
    let detail = part(&found, "conf/kubeadm.yaml").1;
    assert!(
        detail.contains("both look for FlexVolume plugins in `/opt/a`"),
        "{detail}"
    );
}
