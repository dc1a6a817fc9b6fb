//! `imagegen pki rotate`: each phase, judged by openssl with the files of the hosts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::work::{PROD, Work, stderr};

pub(crate) const EXPEL: [&str; 6] = ["pki", "rotate", "-t", "cluster.yaml", "--expel", "n1"];
const NEXT: [&str; 5] = ["pki", "rotate", "-t", "cluster.yaml", "--next"];
const CLIENTS: &str = "etc/kubernetes/pki/clients-ca.crt";
/// The host that is expelled, and one of each kind that stays.
const HOSTS: [&str; 4] = ["m0", "m1", "m2", "n0"];

/// The topology with a second worker, and its documents.
pub(crate) fn cluster() -> Work {
    let work = Work::new();
    let n1 = "- { name: n1, role: node, address: 192.168.7.21/24, mac: \"52:54:00:00:07:21\" }\n";
    work.topology(&format!("{PROD}{n1}"));
    work.userdata();
    work
}

pub(crate) fn run(work: &Work, args: &[&str]) -> String {
    let output = work.run(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The number of each host's newest document.
fn newest(work: &Work, host: &str) -> u64 {
    let text = fs::read(work.path("prod/pki/documents.json")).expect("the numbers");
    let all: Value = serde_json::from_slice(&text).expect("JSON");
    all[host]["generation"].as_u64().expect("a number")
}

/// As `firstboot status --all --json` prints it when all hosts have their newest document.
fn statuses(work: &Work) -> Vec<Value> {
    let line = |host: &&str| {
        let document = json!({ "digest": "", "generation": newest(work, host) });
        let status = json!({ "phase": "ready", "document": document });
        json!({ "host": host, "role": "node", "uptime": 9, "status": status })
    };
    HOSTS.iter().map(line).collect()
}

pub(crate) fn next(work: &Work, statuses: &[Value]) -> std::process::Output {
    let text = serde_json::to_vec(statuses).expect("JSON");
    fs::write(work.path("status.json"), text).expect("writing");
    work.run(&[&NEXT[..], &["--status", "status.json"]].concat())
}

/// Moves to the next phase as if every host had its document.
pub(crate) fn advance(work: &Work) {
    let output = next(work, &statuses(work));
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Writes the client certificate of a kubeconfig to a file beside it.
fn client(kubeconfig: &Path) -> PathBuf {
    let text = fs::read_to_string(kubeconfig).expect("a kubeconfig");
    let data = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("client-certificate-data: "))
        .expect("a certificate")
        .trim_matches('"');
    let path = kubeconfig.with_extension("crt");
    fs::write(&path, STANDARD.decode(data).expect("base64")).expect("writing");
    path
}

fn kubelet(work: &Work, host: &str) -> PathBuf {
    client(&work.unpack(host).join("etc/kubernetes/kubelet.conf"))
}

/// Whether a server with the authorities `bundle` accepts this client.
fn accepts(bundle: &Path, client: &Path) -> bool {
    let output = Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile"])
        .args([bundle, client])
        .output()
        .expect("running openssl (Debian: openssl)");
    output.status.success()
}

fn copy(work: &Work, from: &Path, name: &str) -> PathBuf {
    let to = work.path(name);
    fs::copy(from, &to).expect("copying");
    to
}

/// The bundle that `host` has now, under a name that stays.
fn bundle(work: &Work, host: &str, name: &str) -> PathBuf {
    copy(work, &work.unpack(host).join(CLIENTS), name)
}

fn certificates(path: &Path) -> usize {
    let text = fs::read_to_string(path).expect("a bundle");
    text.matches("BEGIN CERTIFICATE").count()
}

/// Every file of a host that a rotation must not change: all but clients' credentials.
fn servers(work: &Work, host: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let root = work.unpack(host);
    let mut files = Vec::new();
    for file in &work.document(host).cloud_config.files {
        let path = file.path.as_str();
        let changes = path.ends_with(".conf")
            || path.contains("/clients-")
            || path == "/etc/firstlight/node.yaml";
        if !changes {
            let bytes = fs::read(root.join(path.trim_start_matches('/'))).expect("a file");
            files.push((path.into(), bytes));
        }
    }
    assert!(files.len() > 4, "{}", files.len());
    files
}

#[test]
fn stolen_worker_is_accepted_until_phase_3_and_others_always() {
    let work = cluster();
    let ca = copy(
        &work,
        &work.unpack("m0").join("etc/kubernetes/pki/ca.crt"),
        "ca.crt",
    );
    let stolen = copy(&work, &kubelet(&work, "n1"), "stolen.crt");
    let old = copy(&work, &kubelet(&work, "n0"), "old.crt");
    let old_admin = copy(&work, &client(&work.path("prod/admin.conf")), "admin-0.crt");
    let before = HOSTS.map(|host| servers(&work, host));
    assert!(accepts(&ca, &stolen) && accepts(&ca, &old));

    // Phase 1: only trust changes.
    let text = run(&work, &EXPEL);
    assert!(
        text.contains("phase 1 of 3") && text.contains("expelled, without documents: n1"),
        "{text}"
    );
    assert!(text.contains("m0=2 m1=2 m2=2 n0=2"), "{text}");
    assert!(!work.path("prod/hosts/n1").join("user-data").exists());
    assert!(!work.path("prod/hosts/n1").join("seed.img").exists());
    let both = bundle(&work, "m0", "both.crt");
    assert_eq!(certificates(&both), 2);
    for host in HOSTS {
        let same = fs::read(bundle(&work, host, "x.crt")).expect("a bundle");
        assert_eq!(same, fs::read(&both).expect("a bundle"), "{host}");
        assert!(
            work.document(host)
                .node
                .expect("a node")
                .security
                .client_authority
        );
    }
    assert!(accepts(&both, &stolen) && accepts(&both, &old));
    let kept = fs::read(kubelet(&work, "n0")).expect("a certificate");
    assert_eq!(kept, fs::read(&old).expect("a certificate"));
    let signer = work
        .unpack("m1")
        .join("etc/kubernetes/pki/clients-signer.crt");
    assert_eq!(fs::read(&signer).expect("it"), fs::read(&ca).expect("it"));
    assert!(
        !work
            .unpack("n0")
            .join("etc/kubernetes/pki/clients-signer.crt")
            .exists()
    );

    // Phase 2: new clients, which hosts of phase 1 accept.
    advance(&work);
    let new = copy(&work, &kubelet(&work, "n0"), "new.crt");
    let new_admin = copy(&work, &client(&work.path("prod/admin.conf")), "admin.crt");
    assert_ne!(fs::read(&new).expect("it"), fs::read(&old).expect("it"));
    assert_eq!(certificates(&bundle(&work, "n0", "x.crt")), 2);
    for one in [&new, &new_admin, &stolen, &old_admin] {
        assert!(accepts(&both, one), "{}", one.display());
    }
    assert!(!accepts(&ca, &new), "a host before phase 1");
    let root = work.unpack("m2");
    for name in ["admin", "controller-manager", "scheduler", "kubelet"] {
        let path = client(&root.join(format!("etc/kubernetes/{name}.conf")));
        assert!(accepts(&both, &path) && !accepts(&ca, &path), "{name}");
    }
    // The controller manager signs with the new authority, whose key is this one.
    let pki = root.join("etc/kubernetes/pki");
    for (file, name) in [("clients-signer.crt", "crt"), ("clients-signer.key", "key")] {
        let next = work.path(&format!("prod/pki/clients-ca-next.{name}"));
        let (on_host, next) = (fs::read(pki.join(file)), fs::read(next));
        assert_eq!(on_host.expect("it"), next.expect("it"), "{file}");
    }

    // Phase 3: the stolen certificate is worthless.
    advance(&work);
    for host in HOSTS {
        let only = bundle(&work, host, "only.crt");
        assert_eq!(certificates(&only), 1, "{host}");
        for one in [&stolen, &old, &old_admin] {
            assert!(!accepts(&only, one), "{host}: {}", one.display());
        }
        assert!(accepts(&only, &new) && accepts(&only, &new_admin), "{host}");
    }
    let text = run(&work, &["pki", "rotate", "-t", "cluster.yaml"]);
    assert!(
        text.contains("phase 3 of 3") && text.contains("--next --status status.json"),
        "{text}"
    );

    // The end changes no document; the expelled host still gets none.
    let documents = HOSTS.map(|host| newest(&work, host));
    let hosts = work.state("prod/hosts");
    advance(&work);
    assert_eq!(HOSTS.map(|host| newest(&work, host)), documents);
    assert_eq!(work.state("prod/hosts"), hosts);
    assert!(work.userdata().contains("nothing to do"));
    assert!(!work.path("prod/pki/clients-ca-next.crt").exists());
    let present = fs::read(work.path("prod/pki/clients-ca.crt")).expect("the authority");
    assert_eq!(present, fs::read(work.path("only.crt")).expect("a bundle"));

    // Nothing else than clients' credentials changed on any host.
    assert_eq!(HOSTS.map(|host| servers(&work, host)), before);
}

#[test]
fn second_rotation_replaces_the_authority_of_clients_only() {
    let work = cluster();
    run(&work, &["pki", "rotate", "-t", "cluster.yaml", "--start"]);
    for _ in 0..3 {
        run(&work, &[&NEXT[..], &["--unchecked"]].concat());
    }
    assert!(work.path("prod/hosts/n1/user-data").exists());
    let ca = copy(&work, &work.path("prod/pki/ca.crt"), "ca.crt");
    let stolen = copy(&work, &kubelet(&work, "n1"), "stolen.crt");
    let before = HOSTS.map(|host| servers(&work, host));
    run(&work, &EXPEL);
    let both = bundle(&work, "n0", "both.crt");
    assert!(accepts(&both, &stolen) && certificates(&both) == 2);
    let text = run(&work, &["pki", "status", "-o", "prod"]);
    for name in [
        "CN=kubernetes-clients-1",
        "CN=kubernetes-clients-2",
        "expelled: n1",
    ] {
        assert!(text.contains(name), "{text}");
    }
    let kubelet_0 = copy(&work, &kubelet(&work, "n0"), "n0.crt");
    let old = copy(
        &work,
        &work.path("prod/pki/clients-ca.crt"),
        "clients-1.crt",
    );
    assert!(accepts(&old, &kubelet_0) && !accepts(&ca, &kubelet_0));
    advance(&work);
    advance(&work);
    let only = bundle(&work, "m0", "only.crt");
    assert!(!accepts(&only, &stolen) && !accepts(&only, &kubelet_0));
    assert!(accepts(&only, &kubelet(&work, "n0")));
    advance(&work);
    assert_eq!(HOSTS.map(|host| servers(&work, host)), before);
}

#[test]
fn host_that_leaves_the_topology_may_come_back_as_another_machine() {
    let work = cluster();
    let stolen = fs::read(kubelet(&work, "n1")).expect("a certificate");
    run(&work, &EXPEL);
    for _ in 0..3 {
        advance(&work);
    }
    let with_n1 = fs::read_to_string(work.path("cluster.yaml")).expect("the topology");
    work.topology(PROD);
    work.userdata();
    work.topology(&with_n1.replace("07:21", "07:99"));
    work.userdata();
    let only = bundle(&work, "m0", "only.crt");
    let new = kubelet(&work, "n1");
    assert_ne!(fs::read(&new).expect("a certificate"), stolen);
    assert!(accepts(&only, &new));
    // Its machine may know the number of the first document.
    assert_eq!(newest(&work, "n1"), 2);
}
