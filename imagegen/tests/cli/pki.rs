//! The certificates of hosts, verified by openssl and kubeadm.

use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::work::{Work, walk};

fn openssl(args: &[&str], folder: &Path) -> (bool, String) {
    let output = Command::new("openssl")
        .args(args)
        .current_dir(folder)
        .output()
        .expect("running openssl (Debian: openssl)");
    (
        output.status.success(),
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    )
}

fn good(args: &[&str], folder: &Path) {
    let (good, printed) = openssl(args, folder);
    assert!(good, "openssl {}: {printed}", args.join(" "));
}

/// `(certificate, authority, purposes)`; below `/etc/kubernetes/pki`.
const CERTIFICATES: &[(&str, &str, &[&str])] = &[
    ("apiserver", "ca", &["sslserver"]),
    ("apiserver-kubelet-client", "ca", &["sslclient"]),
    ("front-proxy-client", "front-proxy-ca", &["sslclient"]),
    ("etcd/server", "etcd/ca", &["sslserver", "sslclient"]),
    ("etcd/peer", "etcd/ca", &["sslserver", "sslclient"]),
    ("etcd/healthcheck-client", "etcd/ca", &["sslclient"]),
    ("apiserver-etcd-client", "etcd/ca", &["sslclient"]),
];

#[test]
fn openssl_accepts_every_certificate_at_any_date() {
    let work = Work::new();
    work.userdata();
    for host in ["m0", "m1"] {
        let pki = work.unpack(host).join("etc/kubernetes/pki");
        for (name, authority, purposes) in CERTIFICATES {
            let (certificate, authority) = (format!("{name}.crt"), format!("{authority}.crt"));
            for purpose in *purposes {
                // 1 June 2001 and 1 June 2120.
                for time in ["991353600", "4746988800"] {
                    let args = [
                        "verify",
                        "-x509_strict",
                        "-purpose",
                        purpose,
                        "-attime",
                        time,
                        "-CAfile",
                        &authority,
                        &certificate,
                    ];
                    good(&args, &pki);
                }
            }
            let other = if authority == "ca.crt" {
                "etcd/ca.crt"
            } else {
                "ca.crt"
            };
            assert!(
                !openssl(&["verify", "-CAfile", other, &certificate], &pki).0,
                "{name} passes under `{other}`"
            );
            let (_, of_certificate) =
                openssl(&["x509", "-in", &certificate, "-noout", "-pubkey"], &pki);
            let (_, of_key) = openssl(&["pkey", "-in", &format!("{name}.key"), "-pubout"], &pki);
            assert_eq!(of_certificate, of_key, "{name}");
        }
        for name in [
            "kubernetes",
            "kubernetes.default.svc.cluster.local",
            "apiserver.cluster.local",
            "localhost",
            "m0",
            "m1",
            "m2",
        ] {
            good(
                &[
                    "verify",
                    "-CAfile",
                    "ca.crt",
                    "-verify_hostname",
                    name,
                    "apiserver.crt",
                ],
                &pki,
            );
        }
        for ip in [
            "10.96.0.1",
            "10.103.97.2",
            "127.0.0.1",
            "192.168.7.10",
            "192.168.7.11",
            "192.168.7.12",
        ] {
            good(
                &[
                    "verify",
                    "-CAfile",
                    "ca.crt",
                    "-verify_ip",
                    ip,
                    "apiserver.crt",
                ],
                &pki,
            );
        }
        assert!(
            !openssl(
                &[
                    "verify",
                    "-CAfile",
                    "ca.crt",
                    "-verify_ip",
                    "192.168.7.20",
                    "apiserver.crt"
                ],
                &pki
            )
            .0
        );
        good(
            &["pkey", "-in", "sa.key", "-pubout", "-out", "sa.read"],
            &pki,
        );
        assert_eq!(
            fs::read(pki.join("sa.read")).expect("a key"),
            fs::read(pki.join("sa.pub")).expect("a key")
        );
    }
}

#[test]
fn each_kubeconfig_names_its_user_and_server() {
    let work = Work::new();
    work.userdata();
    let endpoint = "https://apiserver.cluster.local:6443";
    let cases = [
        (
            "m0",
            "admin.conf",
            "subject=O = system:masters, CN = kubernetes-admin",
            endpoint,
        ),
        (
            "m1",
            "controller-manager.conf",
            "subject=CN = system:kube-controller-manager",
            "https://192.168.7.11:6443",
        ),
        (
            "m1",
            "scheduler.conf",
            "subject=CN = system:kube-scheduler",
            "https://192.168.7.11:6443",
        ),
        (
            "m0",
            "kubelet.conf",
            "subject=O = system:nodes, CN = system:node:m0",
            endpoint,
        ),
        (
            "n0",
            "kubelet.conf",
            "subject=O = system:nodes, CN = system:node:n0",
            endpoint,
        ),
        (
            "n0",
            "discovery.conf",
            "subject=O = system:nodes, CN = system:node:n0",
            endpoint,
        ),
    ];
    for (host, file, subject, server) in cases {
        let folder = work.unpack(host).join("etc/kubernetes");
        let text = fs::read_to_string(folder.join(file)).expect("a kubeconfig");
        assert!(
            text.contains(&format!("server: \"{server}\"")),
            "{host} {file}"
        );
        let field = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.trim().starts_with(name))
                .expect(name);
            STANDARD
                .decode(line.split_once(": ").expect("a value").1.trim_matches('"'))
                .expect("base64")
        };
        fs::write(folder.join("user.crt"), field("client-certificate-data")).expect("writing");
        fs::write(folder.join("user.key"), field("client-key-data")).expect("writing");
        assert_eq!(
            field("certificate-authority-data"),
            fs::read(folder.join("pki/ca.crt")).expect("the authority")
        );
        good(
            &[
                "verify",
                "-x509_strict",
                "-purpose",
                "sslclient",
                "-CAfile",
                "pki/ca.crt",
                "user.crt",
            ],
            &folder,
        );
        assert!(
            openssl(&["x509", "-in", "user.crt", "-noout", "-subject"], &folder)
                .1
                .contains(subject),
            "{host} {file}"
        );
        let (_, of_certificate) =
            openssl(&["x509", "-in", "user.crt", "-noout", "-pubkey"], &folder);
        assert_eq!(
            of_certificate,
            openssl(&["pkey", "-in", "user.key", "-pubout"], &folder).1,
            "{host} {file}"
        );
    }
}

#[test]
fn status_certificate_serves_its_host_and_no_client() {
    let work = Work::new();
    work.userdata();
    for (host, own, other) in [
        ("m0", "192.168.7.10", "192.168.7.11"),
        ("n0", "192.168.7.20", "10.103.97.2"),
    ] {
        let etc = work.unpack(host).join("etc");
        let verify = |more: &[&str]| {
            let fixed = ["verify", "-x509_strict", "-CAfile", "kubernetes/pki/ca.crt"];
            let args = [&fixed[..], more, &["firstlight/status.crt"]].concat();
            openssl(&args, &etc).0
        };
        let fqdn = format!("{host}.prod.internal");
        for more in [
            ["-purpose", "sslserver"],
            ["-verify_ip", own],
            ["-verify_hostname", host],
            ["-verify_hostname", &fqdn],
        ] {
            assert!(verify(&more), "{host}: {more:?}");
        }
        for more in [
            ["-purpose", "sslclient"],
            ["-verify_ip", other],
            ["-verify_ip", "127.0.0.1"],
            ["-verify_hostname", "apiserver.cluster.local"],
        ] {
            assert!(!verify(&more), "{host}: {more:?}");
        }
        let (certificate, key) = ("firstlight/status.crt", "firstlight/status.key");
        assert_eq!(
            openssl(&["x509", "-in", certificate, "-noout", "-pubkey"], &etc),
            openssl(&["pkey", "-in", key, "-pubout"], &etc),
            "{host}"
        );
    }
}

#[test]
fn worker_document_has_only_its_own_certificates() {
    let work = Work::new();
    work.userdata();
    let root = work.unpack("n0");
    let mut files = Vec::new();
    walk(&root, &mut |path| {
        files.push(
            path.strip_prefix(&root)
                .expect("below")
                .display()
                .to_string(),
        );
    });
    files.sort();
    let expected = [
        "etc/firstlight/node.yaml",
        "etc/firstlight/status.crt",
        "etc/firstlight/status.key",
        "etc/kubernetes/discovery.conf",
        "etc/kubernetes/kubelet.conf",
        "etc/kubernetes/pki/ca.crt",
        "etc/kubernetes/pki/kubelet-server.crt",
        "etc/kubernetes/pki/kubelet-server.key",
    ];
    assert_eq!(files, expected);
}
