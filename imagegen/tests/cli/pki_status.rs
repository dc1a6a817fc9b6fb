//! `imagegen pki status`, and the validity of administrators' certificates.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use imagegen::pki::status;
use imagegen::pki::store::Pki;
use imagegen::topology::check;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::topology_cases::only_error;
use crate::work::{PROD, Work, stderr};

#[test]
fn every_certificate_has_its_holder_and_end() {
    let work = Work::new();
    work.userdata();
    let output = work.run(&["pki", "status", "-o", "prod", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let entries: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let issued = fs::read(work.path("prod/pki/issued.json")).expect("the store");
    let issued: Value = serde_json::from_slice(&issued).expect("JSON");
    let hosts = issued.as_object().expect("hosts").values();
    let leaves: usize = hosts
        .map(|leaves| leaves.as_object().map_or(0, |all| all.len()))
        .sum();
    // Three authorities, and the keys of service accounts, documents and Secrets.
    assert_eq!(entries.len(), leaves + 3 + 3);
    let holders: BTreeSet<_> = entries
        .iter()
        .filter_map(|one| one["holder"].as_str())
        .collect();
    for host in [
        "m0",
        "m1",
        "m2",
        "n0",
        "this folder only",
        "admin.conf of this folder",
    ] {
        assert!(holders.contains(host), "{host}: {holders:?}");
    }
    let kubelet = entries
        .iter()
        .find(|one| one["holder"] == "n0" && one["name"] == "kubelet")
        .expect("the kubelet of n0");
    assert_eq!(kubelet["subject"], "O=system:nodes, CN=system:node:n0");
    assert!(kubelet["daysLeft"].as_i64() > Some(36_500));

    let text = work.run(&["pki", "status", "-t", "cluster.yaml"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert_eq!(text.lines().count(), entries.len() + 2, "{text}");
    assert!(!text.contains("PRIVATE"), "{text}");
}

#[test]
fn folder_without_certificates_is_an_error() {
    let work = Work::new();
    let output = work.run(&["pki", "status", "-o", "nothing"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("imagegen userdata"),
        "{}",
        stderr(&output)
    );
    assert_eq!(work.run(&["pki", "status"]).status.code(), Some(2));
}

#[test]
fn ended_certificate_is_shown_and_fails() {
    let work = Work::new();
    let text = PROD.replace("validity: 100y", "validity: 100y, admin: 30d");
    let plan = check::read("cluster.yaml", &text).expect("a topology").plan;
    let today = OffsetDateTime::now_utc().date();
    let dir = work.path("out/pki");
    let pki = Pki::prepare(&dir, &plan, today - Duration::days(31)).expect("a PKI");
    for (path, bytes) in pki.files().expect("files") {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }
    let output = work.run(&["pki", "status", "-o", "out"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // admin and the apiserver's client of kubelets on three masters, and the operator's.
    assert_eq!(text.matches("ENDED").count(), 7, "{text}");

    let ended = status::read(&dir, today).expect("entries");
    let ended = ended.iter().filter(|entry| entry.has_ended());
    for entry in ended {
        assert!(entry.subject.contains("system:masters"), "{entry:?}");
    }
    // The next run renews them and nothing else.
    let again = Pki::prepare(&dir, &plan, today).expect("a PKI");
    let host = &plan.hosts[0];
    for (name, issued) in again.of_host(host) {
        let kept = pki.issued(host, name).expect("a certificate") == issued;
        let is_admin = ["admin", "apiserver-kubelet-client"].contains(&name);
        assert_eq!(kept, !is_admin, "{name}");
    }
}

#[test]
fn administrators_validity_is_a_validity_and_not_the_longest() {
    for (admin, why) in [
        ("2y", "longer than `certificates.validity`"),
        ("soon", "not a validity"),
    ] {
        let text = PROD.replace("validity: 100y", &format!("validity: 1y, admin: {admin}"));
        only_error(&text, why);
    }
    only_error(&format!("{PROD}seed: shred\n"), "`shred` is not known");
}
