//! Serving certificates of kubelets, and the key of Secrets.

use std::fs;
use std::process::Command;

use userdata::contract::{ENCRYPTION_FILE, KUBELET_CERTIFICATE};

use crate::work::{PROD, Work, stderr};

/// Whether openssl accepts the kubelet's certificate of `host` with this check.
fn serves(work: &Work, host: &str, check: [&str; 2]) -> bool {
    let folder = work.unpack(host);
    let output = Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver"])
        .args(check)
        .args(["-CAfile", "etc/kubernetes/pki/ca.crt"])
        .arg(KUBELET_CERTIFICATE.trim_start_matches('/'))
        .current_dir(folder)
        .output();
    output
        .expect("running openssl (Debian: openssl)")
        .status
        .success()
}

#[test]
fn every_kubelet_has_a_certificate_for_its_host_only() {
    let work = Work::new();
    work.userdata();
    for (host, address) in [("m1", "192.168.7.11"), ("n0", "192.168.7.20")] {
        assert!(serves(&work, host, ["-verify_ip", address]), "{host}");
        assert!(serves(&work, host, ["-verify_hostname", host]), "{host}");
        for name in ["kubernetes", "apiserver.cluster.local", "m0", "localhost"] {
            assert!(
                !serves(&work, host, ["-verify_hostname", name]),
                "{host}: {name}"
            );
        }
        for ip in ["192.168.7.10", "127.0.0.1", "10.96.0.1", "10.103.97.2"] {
            assert!(!serves(&work, host, ["-verify_ip", ip]), "{host}: {ip}");
        }
        // It is no client's: the name of a node is in it.
        assert!(!serves(&work, host, ["-purpose", "sslclient"]), "{host}");
    }
}

#[test]
fn masters_encrypt_secrets_and_workers_do_not_know_the_key() {
    let work = Work::new();
    work.userdata();
    let key = fs::read_to_string(work.path("prod/pki/encryption.key")).expect("the key");
    let key = key.trim();
    let file = ENCRYPTION_FILE.trim_start_matches('/');
    let mut configurations = ["m0", "m1", "m2"].map(|host| {
        let text = fs::read_to_string(work.unpack(host).join(file)).expect("the configuration");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        value
    });
    let [first, others @ ..] = &mut configurations;
    assert!(
        others.iter().all(|other| other == first),
        "masters read each other's Secrets"
    );
    let providers = &first["resources"][0]["providers"];
    assert_eq!(providers[0]["secretbox"]["keys"][0]["secret"], key);
    assert!(providers[1]["identity"].is_object());
    assert!(!work.unpack("n0").join(file).exists());
    let worker = fs::read_to_string(work.path("prod/hosts/n0/user-data")).expect("a document");
    assert!(!worker.contains(key));

    // The key stays, and a damaged one stops everything.
    work.topology(&PROD.replace("ntp: []", "ntp: [192.0.2.1]"));
    work.userdata();
    let again = fs::read_to_string(work.path("prod/pki/encryption.key")).expect("the key");
    assert_eq!(again.trim(), key);
    fs::write(work.path("prod/pki/encryption.key"), &key[1..]).expect("a damaged key");
    let output = work.run(&["userdata", "-t", "cluster.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("restore it"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn cluster_that_began_without_encryption_goes_on_without() {
    let work = Work::new();
    work.userdata();
    fs::remove_file(work.path("prod/pki/encryption.key")).expect("no key");
    let output = work.run(&["userdata", "-t", "cluster.yaml"]);
    assert_eq!(output.status.code(), Some(1), "it is lost");
    assert!(
        stderr(&output).contains("restore it"),
        "{}",
        stderr(&output)
    );
    // An older folder never had it.
    let manifest = work.path("prod/manifest.json");
    let text = fs::read_to_string(&manifest).expect("the manifest");
    fs::write(&manifest, text.replace("pki/encryption.key", "pki/other")).expect("the manifest");
    work.userdata();
    assert!(!work.path("prod/pki/encryption.key").exists());
    let document = fs::read_to_string(work.path("prod/hosts/m0/user-data")).expect("a document");
    assert!(!document.contains("EncryptionConfiguration"));
    assert!(document.contains("encrypted_secrets: false"));
}
