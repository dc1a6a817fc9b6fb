//! The status over the network: the program serves connections as systemd passes them, and requests
//! them.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use firstboot::kube::client::{Answer, Client};
use firstboot::system::files::Root;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use userdata::contract::STATUS_PORT;

const WITHIN: Duration = Duration::from_secs(20);

struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "kubernetes");
        let certificate = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self {
            certificate,
            issuer,
        }
    }

    fn sign(&self, group: &str, usage: ExtendedKeyUsagePurpose, ip: Option<IpAddr>) -> [String; 2] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "one");
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![usage];
        params.subject_alt_names = ip.map(SanType::IpAddress).into_iter().collect();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        [certificate, key.serialize_pem()]
    }

    /// `admin.conf` below `root`, for a certificate of `signer`.
    fn kubeconfig(&self, root: &Path, signer: &Authority, group: &str) {
        let [certificate, key] = signer.sign(group, ExtendedKeyUsagePurpose::ClientAuth, None);
        let data = |text: &str| BASE64_STANDARD.encode(text);
        let text = format!(
            "clusters: [{{cluster: {{certificate-authority-data: {}}}}}]\n\
             users: [{{user: {{client-certificate-data: {}, client-key-data: {}}}}}]\n",
            data(&self.certificate),
            data(&certificate),
            data(&key)
        );
        put(root, "etc/kubernetes/admin.conf", &text);
    }
}

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn put_status(root: &Path, status: &Value) {
    put(root, "run/firstlight/status.json", &status.to_string());
}

/// A loopback address that no other test uses.
fn address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., a, b] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, a, b, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// A running server and its root.
struct Server {
    dir: TempDir,
    program: Child,
}

impl Deref for Server {
    type Target = TempDir;

    fn deref(&self) -> &TempDir {
        &self.dir
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// As systemd does for `firstboot-status.socket`: the socket is the standard input of the program.
fn serve(authority: &Authority, status: &Value) -> (IpAddr, Server) {
    serve_clients_of(authority, &[], status)
}

fn serve_clients_of(
    authority: &Authority,
    clients: &[&Authority],
    status: &Value,
) -> (IpAddr, Server) {
    let (address, dir) = (address(), TempDir::new().unwrap());
    let [certificate, key] = authority.sign(
        "firstlight:status",
        ExtendedKeyUsagePurpose::ServerAuth,
        Some(address),
    );
    put(dir.path(), "etc/firstlight/status.crt", &certificate);
    put(dir.path(), "etc/firstlight/status.key", &key);
    put(
        dir.path(),
        "etc/kubernetes/pki/ca.crt",
        &authority.certificate,
    );
    if !clients.is_empty() {
        let bundle: String = clients.iter().map(|one| one.certificate.as_str()).collect();
        put(dir.path(), "etc/kubernetes/pki/clients-ca.crt", &bundle);
    }
    put_status(dir.path(), status);
    let listener = TcpListener::bind((address, STATUS_PORT)).unwrap();
    let program = Command::new(cargo_bin!("firstboot"))
        .args(["serve-status", "--root"])
        .arg(dir.path())
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (address, Server { dir, program })
}

fn ready() -> Value {
    json!({ "phase": "ready", "step_number": 11, "step_count": 11, "since": 0 })
}

fn ask(at: IpAddr, root: &Path, path: &str) -> anyhow::Result<Answer> {
    let endpoint = format!("{at}:{STATUS_PORT}");
    let root = Root::new(root);
    Client::from_kubeconfig_within(&root, "/etc/kubernetes/admin.conf", &endpoint, WITHIN)?
        .get(path)
}

#[test]
fn only_administrators_of_this_cluster_read_the_status() {
    let (ours, other) = (Authority::new(), Authority::new());
    let (address, _server) = serve(&ours, &ready());
    let client = TempDir::new().unwrap();

    ours.kubeconfig(client.path(), &ours, "system:masters");
    let report = ask(address, client.path(), "/status")
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(report["status"]["phase"], "ready");
    assert!(report["uptime"].as_u64().unwrap() > 0);
    let other_path = ask(address, client.path(), "/etc/firstlight/status.key").unwrap();
    assert_eq!(other_path.say(), "404: only GET /status exists");

    // A node's kubelet.
    ours.kubeconfig(client.path(), &ours, "system:nodes");
    let refused = ask(address, client.path(), "/status").unwrap();
    assert_eq!(
        refused.say(),
        "403: `CN=one, O=system:nodes` is not in the group system:masters"
    );
    // An administrator of another cluster who trusts this one.
    ours.kubeconfig(client.path(), &other, "system:masters");
    let error = ask(address, client.path(), "/status").unwrap_err();
    assert!(
        format!("{error:#}").contains("received fatal alert"),
        "{error:#}"
    );
    // No certificate.
    let endpoint = format!("{address}:{STATUS_PORT}");
    let anonymous = Client::anonymous(ours.certificate.as_bytes(), &endpoint, WITHIN).unwrap();
    let error = anonymous.get("/status").unwrap_err();
    assert!(
        format!("{error:#}").contains("received fatal alert"),
        "{error:#}"
    );
    // The client does not trust a host of another cluster.
    other.kubeconfig(client.path(), &ours, "system:masters");
    let error = ask(address, client.path(), "/status").unwrap_err();
    assert!(
        format!("{error:#}").contains("invalid peer certificate"),
        "{error:#}"
    );
}

#[test]
fn rotation_changes_whose_administrators_read_the_status() {
    let (ca, new) = (Authority::new(), Authority::new());
    let client = TempDir::new().unwrap();
    for (clients, of_ca, of_new) in [
        (&[][..], true, false),
        (&[&ca, &new], true, true),
        (&[&new], false, true),
    ] {
        let (address, _server) = serve_clients_of(&ca, clients, &ready());
        for (signer, reads) in [(&ca, of_ca), (&new, of_new)] {
            ca.kubeconfig(client.path(), signer, "system:masters");
            let answer = ask(address, client.path(), "/status");
            assert_eq!(answer.is_ok(), reads, "{answer:?}");
        }
    }
}

#[test]
fn strangers_do_not_keep_readers_out() {
    let ours = Authority::new();
    let (address, _server) = serve(&ours, &ready());
    let client = TempDir::new().unwrap();
    ours.kubeconfig(client.path(), &ours, "system:masters");
    // More than the server keeps, from this address too: each connects and says nothing, or sends
    // what is no TLS.
    let mut silent = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect((address, STATUS_PORT)).unwrap();
        if number % 2 == 0 {
            let _ = stream.write_all(b"GET /status HTTP/1.1\r\n\r\n");
        }
        silent.push(stream);
    }
    for _ in 0..3 {
        let report = ask(address, client.path(), "/status").unwrap();
        assert_eq!(report.ok().unwrap()["status"]["phase"], "ready");
    }
}

/// A root whose node file names these hosts; the first is its own.
fn client_root(authority: &Authority, role: &str, hosts: &[(&str, IpAddr)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    authority.kubeconfig(dir.path(), authority, "system:masters");
    let is_master = |name: &str| name.starts_with('m');
    let masters: Vec<_> = hosts
        .iter()
        .filter(|(name, _)| is_master(name))
        .map(|(name, address)| format!("- {{ name: {name}, address: {address} }}\n"))
        .collect();
    let entries: Vec<_> = hosts
        .iter()
        .map(|(name, address)| {
            format!("- {{ address: {address}, names: [{name}.prod.internal, {name}] }}\n")
        })
        .collect();
    let (own, address) = hosts[0];
    let node = format!(
        "apiVersion: firstlight/v1\nkind: Node\ncluster: prod\nrole: {role}\nname: {own}\naddresses: [{address}/24]\n\
         masters:\n{}apiserver: {{ domain: apiserver.cluster.local, port: 6443, vip: 10.103.97.2 }}\n\
         network: {{ pods: [10.244.0.0/16], services: [10.96.0.0/16] }}\nhosts:\n{}",
        masters.concat(),
        entries.concat()
    );
    put(dir.path(), "etc/firstlight/node.yaml", &node);
    put_status(dir.path(), &ready());
    dir
}

fn status_all(root: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(cargo_bin!("firstboot"))
        .args(["status", "--all", "--root"])
        .arg(root)
        .args(more)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn status_all_lists_waiting_hanging_and_absent_hosts() {
    let ours = Authority::new();
    let waiting = json!({
        "phase": "working", "step": "etcd-member", "step_number": 9, "step_count": 11, "since": 0,
        "waiting": { "endpoint": "an apiserver of 192.168.7.10:6443", "answer": "m0 says connection refused", "tries": 7,
            "since": 0, "since_uptime": 0 },
    });
    let (m1, _m1) = serve(&ours, &waiting);
    // One accepts and does not answer, one closes the connection as without a document, one is off.
    let (hanging, closing, off) = (address(), address(), address());
    let hang = TcpListener::bind((hanging, STATUS_PORT)).unwrap();
    let close = TcpListener::bind((closing, STATUS_PORT)).unwrap();
    thread::spawn(move || {
        close
            .incoming()
            .for_each(|stream| drop(stream.unwrap().read(&mut [0; 1])));
    });
    let hosts = [
        ("m0", address()),
        ("m1", m1),
        ("m2", hanging),
        ("n0", closing),
        ("n1", off),
    ];
    let root = client_root(&ours, "master0", &hosts);
    let (code, table, errors) = status_all(root.path(), &["--timeout=5"]);
    assert_eq!((code, errors.as_str()), (Some(1), ""), "{table}");
    let line = |name: &str| {
        let line = table.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name}: {table}"));
        line.split("   ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect::<Vec<_>>()
    };
    assert_eq!(line("m0"), ["m0", "master0", "ready", "-", "-", "-", "-"]);
    let m1 = line("m1");
    assert_eq!(m1[..4], ["m1", "master", "working", "9/11 etcd-member"]);
    assert_eq!(m1[4], "an apiserver of 192.168.7.10:6443");
    assert!(m1[5].ends_with("(7 tries)"), "{m1:?}");
    assert_eq!(m1[6], "m0 says connection refused");
    for (name, role, address, reason) in [
        ("m2", "master", hanging, "timed out"),
        (
            "n0",
            "node",
            closing,
            "closed before an answer; it has no document yet",
        ),
        (
            "n1",
            "node",
            off,
            "connection refused; it has no document yet",
        ),
    ] {
        let found = line(name);
        assert_eq!(found[..3], [name, role, "unreachable"]);
        let answer = found[6];
        assert!(
            answer.contains(reason) && answer.contains(&address.to_string()),
            "{answer}"
        );
    }
    assert!(table.ends_with("1 of 5 hosts are ready\n"), "{table}");
    drop(hang);

    let (code, json, _) = status_all(root.path(), &["--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(code, Some(1));
    assert_eq!(json[0]["status"]["phase"], "ready");
    assert_eq!(json[1]["status"]["waiting"]["tries"], 7);
    assert!(json[4]["error"].as_str().unwrap().contains("refused"));
}

#[test]
fn exit_status_is_0_if_all_are_ready() {
    let ours = Authority::new();
    let (n0, _n0) = serve(&ours, &ready());
    let root = client_root(&ours, "master0", &[("m0", address()), ("n0", n0)]);
    let (code, table, errors) = status_all(root.path(), &["--timeout=20"]);
    assert_eq!(code, Some(0), "{table}{errors}");
    assert!(table.ends_with("2 of 2 hosts are ready\n"), "{table}");
}

#[test]
fn worker_names_the_hosts_to_run_on() {
    let root = client_root(
        &Authority::new(),
        "node",
        &[("n0", address()), ("m0", address()), ("m1", address())],
    );
    let (code, _, errors) = status_all(root.path(), &[]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("run this on m0, m1"), "{errors}");
}
