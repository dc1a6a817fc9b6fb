//! Names in the apiserver's certificates: those of the topology and of the package.

use std::process::Command;

use imagegen::pki::issue::NOT_BEFORE;
use imagegen::pki::store::Pki;
use imagegen::topology::check;

use crate::package;
use crate::work::{PROD, Work, stderr};

fn has_name(work: &Work, host: &str, option: &str, name: &str) -> bool {
    let args = ["verify", "-CAfile", "ca.crt", option, name, "apiserver.crt"];
    let output = Command::new("openssl")
        .args(args)
        .current_dir(work.unpack(host).join("etc/kubernetes/pki"))
        .output();
    output.expect("running openssl").status.success()
}

const BASE: &str = "apiVersion: kubeadm.k8s.io/v1beta2
kind: ClusterConfiguration
kubernetesVersion: v1.20.2
apiServer:
  certSANs:
  - 127.0.0.1
  - apiserver.cluster.local
  - k8s.example.net
  - 203.0.113.10
";

#[test]
fn names_of_topology_and_package_are_in_certificates() {
    let work = Work::new();
    work.topology(&PROD.replace(
        "vip: 10.103.97.2",
        "names: [k8s.example.com, '*.k8s.example.com', 203.0.113.11]",
    ));
    package::folder(
        &work.path("kube"),
        &[("conf/kubeadm.yaml", BASE.as_bytes())],
    );
    let output = work.run(&["userdata", "-t", "cluster.yaml", "-p", "kube"]);
    assert!(output.status.success(), "{}", stderr(&output));
    for host in ["m0", "m2"] {
        for name in [
            "k8s.example.com",
            "a.k8s.example.com",
            "k8s.example.net",
            "apiserver.cluster.local",
        ] {
            assert!(has_name(&work, host, "-verify_hostname", name), "{name}");
        }
        for ip in ["203.0.113.10", "203.0.113.11", "10.103.97.2"] {
            assert!(has_name(&work, host, "-verify_ip", ip), "{ip}");
        }
        assert!(!has_name(
            &work,
            host,
            "-verify_hostname",
            "k8s.example.org"
        ));
    }
}

#[test]
fn package_with_a_name_of_a_worker_is_refused() {
    let work = Work::new();
    let base = BASE.replace("k8s.example.net", "n0.prod.internal");
    package::folder(
        &work.path("kube"),
        &[("conf/kubeadm.yaml", base.as_bytes())],
    );
    let output = work.run(&["userdata", "-t", "cluster.yaml", "-p", "kube"]);
    let printed = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(
        printed
            .contains("conf/kubeadm.yaml:8:5: error: `n0.prod.internal` is a name of the worker"),
        "{printed}"
    );
    assert!(!work.path("prod").exists());
}

#[test]
fn missing_package_is_a_warning_for_documents() {
    let work = Work::new();
    let output = work.run(&["userdata", "-t", "cluster.yaml", "-p", "kube"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = stderr(&output);
    assert!(
        printed.starts_with("warn: the package `kube` does not exist: if its `conf/kubeadm.yaml`"),
        "{printed}"
    );
}

/// The rules for topologies refuse such a plan earlier.
#[test]
fn no_worker_gets_a_certificate_of_the_apiserver() {
    let folder = tempfile::tempdir().expect("a folder");
    let prepare = |change: &dyn Fn(&mut imagegen::plan::ClusterPlan)| {
        let mut plan = check::read("cluster.yaml", PROD).expect("valid").plan;
        change(&mut plan);
        Pki::prepare(&folder.path().join("pki"), &plan, NOT_BEFORE).map_err(|e| e.to_string())
    };
    assert!(prepare(&|_| {}).is_ok());
    let refused = |change: &dyn Fn(&mut imagegen::plan::ClusterPlan), name: &str| {
        let error = prepare(change).expect_err(name);
        let expected = format!("`n0` would get a certificate for `{name}`, which names the");
        let renamed = format!("`{name}` would get a certificate for `{name}`, which names the");
        assert!(
            error.starts_with(&expected) || error.starts_with(&renamed),
            "{error}"
        );
    };
    refused(
        &|plan| plan.apiserver.domain = "n0.prod.internal".to_owned(),
        "n0.prod.internal",
    );
    refused(&|plan| plan.apiserver_names.add("n0"), "n0");
    refused(
        &|plan| plan.apiserver_names.add("192.168.7.20"),
        "192.168.7.20",
    );
    refused(
        &|plan| plan.hosts[3].name = "kubernetes".to_owned(),
        "kubernetes",
    );
}
