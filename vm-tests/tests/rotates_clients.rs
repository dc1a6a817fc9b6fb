//! A rotation of the authority of clients with three real apiservers and without a machine: the
//! certificate of a stolen worker opens nothing afterwards, and another worker is always served.
//!
//! The controller manager is there too. `cluster_rotation` does the same on machines, with all other programs of a host.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use firstboot::kube::client::Client;
use firstboot::kube::documents;
use firstboot::report::Reporter;
use firstboot::step::Step;
use firstboot::step::cluster::accepted_clients::AcceptedClients;
use firstboot::system::files::{Attributes, Root};
use serde_json::json;
use userdata::contract::{CLIENT_AUTHORITIES, CLIENT_SIGNER_CERTIFICATE, CLIENT_SIGNER_KEY};
use vm_tests::control_plane::{ADMIN, ControlPlane, HOSTS, HostNetwork, THREE_HOSTS, in_network};
use vm_tests::host::process::Server;
use vm_tests::host::run_dir::RunDir;

const WORKERS: &str = "\
- { name: n0, role: node, address: 192.168.7.20/24, mac: \"52:54:00:00:07:20\" }
- { name: n1, role: node, address: 192.168.7.21/24, mac: \"52:54:00:00:07:21\" }
";
const KUBELET: &str = "/etc/kubernetes/kubelet.conf";
const NEXT: [&str; 2] = ["--next", "--unchecked"];
const LIMIT: Duration = Duration::from_secs(90);
/// lvscare's longest interval, and a second for the answer.
const LVSCARE_ASKS: Duration = Duration::from_secs(6);

#[test]
fn stolen_worker_is_refused_by_three_apiservers_and_the_other_is_served() -> Result<()> {
    let run_dir = RunDir::new("rotates_clients")?;
    let topology = format!("{THREE_HOSTS}{WORKERS}");
    let control_plane = ControlPlane::new(&run_dir, &topology)?;
    in_network(&HOSTS, |network| {
        let cluster = HOSTS.map(|(name, address)| format!("{name}=https://{address}:2380"));
        let cluster = cluster.join(",");
        let etcd = |(name, _)| control_plane.etcd(network, name, &cluster, false);
        let _etcds = HOSTS.into_iter().map(etcd).collect::<Result<Vec<_>>>()?;
        let mut masters = Masters {
            control_plane: &control_plane,
            network,
            apiservers: Vec::new(),
        };
        for (name, _) in HOSTS {
            let server = masters.start(name)?;
            masters.apiservers.push(server);
        }
        let (stolen, other) = (root(&control_plane, "n1")?, root(&control_plane, "n0")?);
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            let requests = scope.spawn(|| served_until(&other, &end));
            let rotated = masters.rotate(&stolen);
            end.store(true, Ordering::Relaxed);
            let served = requests.join().unwrap_or_else(|_| bail!("a panic"));
            rotated?;
            let served = served?;
            println!("{served} requests of the other worker were answered");
            ensure!(served > 20, "only {served} requests");
            Ok(())
        })
    })?;
    run_dir.passed();
    Ok(())
}

fn root(control_plane: &ControlPlane, host: &str) -> Result<Root> {
    control_plane.root(host).map(Root::new)
}

/// The HTTP status with which an apiserver answers a kubelet.
fn ask(root: &Root, name: &str, at: Ipv4Addr) -> Result<u16> {
    let client = Client::from_kubeconfig(root, KUBELET, &format!("{at}:6443"))?;
    Ok(client.get(&format!("/api/v1/nodes/{name}"))?.status)
}

/// Sends requests as n0's kubelet, each on a connection of its own to the first apiserver that takes
/// it, and counts them. A kubelet without a Node may get 404.
fn served_until(root: &Root, end: &AtomicBool) -> Result<usize> {
    let mut count = 0;
    while !end.load(Ordering::Relaxed) {
        let mut errors = Vec::new();
        let mut turn = HOSTS
            .iter()
            .cycle()
            .skip(count % HOSTS.len())
            .take(HOSTS.len());
        let answer = turn.find_map(|(_, address)| {
            ask(root, "n0", *address)
                .map_err(|error| errors.push(format!("{address}: {error:#}")))
                .ok()
        });
        ensure!(
            matches!(answer, Some(200 | 404)),
            "request {count} got {answer:?}; {errors:?}"
        );
        count += 1;
        thread::sleep(Duration::from_millis(50));
    }
    Ok(count)
}

struct Masters<'a> {
    control_plane: &'a ControlPlane,
    network: &'a HostNetwork,
    /// In the order of [`HOSTS`].
    apiservers: Vec<Server>,
}

impl Masters<'_> {
    /// A ready apiserver, with the manifest in which firstboot reads its flags.
    fn start(&self, name: &str) -> Result<Server> {
        let root = root(self.control_plane, name)?;
        let flag = "--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt";
        let pod = json!({ "spec": { "containers": [{ "command": ["kube-apiserver", flag] }] } });
        let pod = documents::to_text(&[pod]);
        let manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml";
        root.write(manifest, pod.as_bytes(), Attributes::mode(0o600))?;
        let mut server = self.control_plane.apiserver(self.network, name)?;
        let endpoint = endpoint(name);
        server.wait("become ready", || {
            let client = Client::from_kubeconfig(&root, ADMIN, &endpoint)?;
            client.get("/readyz")?.ok()
        })?;
        Ok(server)
    }

    /// As `docs/operations.md` tells a person to, one host at a time.
    fn rotate(&mut self, stolen: &Root) -> Result<()> {
        let former = self.control_plane.root("m0")?.join("former");
        let former = Root::new(former);
        let admin = root(self.control_plane, "m0")?.read(ADMIN)?;
        let admin = admin.context("m0 has no admin.conf")?;
        former.write(ADMIN, &admin, Attributes::mode(0o600))?;
        expect(stolen, &[200, 404])?;

        self.control_plane.rotate(&["--expel", "n1"])?;
        for (at, (name, _)) in HOSTS.into_iter().enumerate() {
            self.control_plane.take_document(name)?;
            // The first rotation changes a flag.
            check_drain(&self.apiservers[at], &self.control_plane.root(name)?, name)?;
            drop(self.apiservers.remove(at));
            self.apiservers.insert(at, self.start(name)?);
            self.wait_for_clients(name)?;
        }
        self.control_plane.take_document("n0")?;
        expect(stolen, &[200, 404])?;

        for phase in [2, 3] {
            self.control_plane.rotate(&NEXT)?;
            for (name, _) in HOSTS {
                self.control_plane.take_document(name)?;
                self.wait_for_clients(name)?;
            }
            self.control_plane.take_document("n0")?;
            if phase == 2 {
                expect(stolen, &[200, 404])?;
            }
        }
        // At once: these hosts are ready.
        expect(stolen, &[401])?;
        for (name, _) in HOSTS {
            let client = |root: &Root| Client::from_kubeconfig(root, ADMIN, &endpoint(name));
            let answer = client(&former)?.get("/version")?;
            ensure!(
                answer.status == 401,
                "the former administrator: {}",
                answer.say()
            );
            let root = root(self.control_plane, name)?;
            let own = root.read(CLIENT_AUTHORITIES)?.unwrap_or_default();
            let path =
                "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
            let published = client(&root)?.get(path)?.ok()?;
            let published = published["data"]["client-ca-file"].as_str();
            ensure!(
                published.map(str::as_bytes) == Some(&own),
                "{name} publishes {published:?}"
            );
        }
        self.check_controller_manager()
    }

    /// With the flags of firstboot the controller manager of the package starts, and signs what a
    /// kubelet's renewal asks for by the new authority.
    fn check_controller_manager(&self) -> Result<()> {
        let folder = self.control_plane.root("m0")?;
        let file = |path: &str| folder.join(path.trim_start_matches('/'));
        let mut flags = Vec::new();
        let ca = ["/etc/kubernetes/pki/ca.crt", "/etc/kubernetes/pki/ca.key"];
        let clients = [CLIENT_SIGNER_CERTIFICATE, CLIENT_SIGNER_KEY];
        for (signer, pair) in [
            ("kubelet-client", clients),
            ("kube-apiserver-client", clients),
            ("kubelet-serving", ca),
            ("legacy-unknown", ca),
        ] {
            for (kind, path) in ["cert", "key"].iter().zip(pair) {
                let path = file(path).display().to_string();
                flags.push(format!("--cluster-signing-{signer}-{kind}-file={path}"));
            }
        }
        let name = "kube-controller-manager";
        let mut command = self.control_plane.program(self.network, "m0", name)?;
        let config = file("/etc/kubernetes/controller-manager.conf");
        command.args(flags).args([
            "--cluster-signing-cert-file=",
            "--cluster-signing-key-file=",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
        ]);
        command.arg(format!("--kubeconfig={}", config.display()));
        let key = file("/etc/kubernetes/pki/sa.key");
        command.arg(format!(
            "--service-account-private-key-file={}",
            key.display()
        ));
        let mut server = self.control_plane.start(name, &mut command)?;

        let request = folder.join("request.pem");
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ]);
        openssl.args([
            "-nodes",
            "-subj",
            "/O=system:nodes/CN=system:node:n0",
            "-keyout",
        ]);
        openssl
            .arg(folder.join("request.key"))
            .arg("-out")
            .arg(&request);
        ensure!(openssl.output()?.status.success(), "{openssl:?}");
        let mut object = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": { "name": "n0" },
            "spec": {
                "request": BASE64_STANDARD.encode(fs::read(&request)?),
                "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                "usages": ["digital signature", "client auth"],
            },
        });
        let list = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
        let kubelet = root(self.control_plane, "n0")?;
        let kubelet = Client::from_kubeconfig(&kubelet, KUBELET, &endpoint("m0"))?;
        kubelet.send("POST", list, &object)?.ok()?;
        object["status"] = json!({ "conditions": [{
            "type": "Approved", "status": "True", "reason": "Test", "message": "of the test",
        }]});
        let admin = Client::from_kubeconfig(&Root::new(&folder), ADMIN, &endpoint("m0"))?;
        admin
            .send("PATCH", &format!("{list}/n0/approval"), &object)?
            .ok()?;
        let signed = server.wait("sign a request", || {
            let found = admin.get(&format!("{list}/n0"))?.ok()?;
            let signed = found["status"]["certificate"].as_str();
            let signed = signed.with_context(|| format!("not signed: {}", found["status"]))?;
            Ok(BASE64_STANDARD.decode(signed)?)
        })?;
        let path = folder.join("signed.pem");
        fs::write(&path, signed)?;
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-purpose", "sslclient", "-CAfile"]);
        let verified = openssl.arg(file(CLIENT_AUTHORITIES)).arg(&path).output()?;
        ensure!(
            verified.status.success(),
            "{}",
            String::from_utf8_lossy(&verified.stderr)
        );
        Ok(())
    }

    /// The last step of a master with a new document.
    fn wait_for_clients(&self, name: &str) -> Result<()> {
        let (send, receive) = channel();
        let (root, endpoint) = (root(self.control_plane, name)?, endpoint(name));
        thread::spawn(move || {
            let step = AcceptedClients::at(&root, &endpoint, true);
            send.send(step.apply(&mut Reporter::silent(&root)))
        });
        let done = receive.recv_timeout(LIMIT);
        done.with_context(|| format!("{name} is not ready within {LIMIT:?}"))?
    }
}

/// An apiserver that is to end fails its health check at once, and still serves new connections when
/// the last lvscare has seen that.
fn check_drain(apiserver: &Server, root: &Path, name: &str) -> Result<()> {
    let root = Root::new(root);
    let get = |path| Client::from_kubeconfig(&root, ADMIN, &endpoint(name))?.get(path);
    ensure!(get("/readyz")?.status == 200, "{name} is not ready");
    apiserver.terminate()?;
    let begun = Instant::now();
    let ready = get("/readyz")?;
    thread::sleep(LVSCARE_ASKS.saturating_sub(begun.elapsed()));
    let version = get("/version").with_context(|| format!("asking {name} while it ends"))?;
    ensure!(
        ready.status == 500 && version.status == 200,
        "{name} ends: {}, {}",
        ready.say(),
        version.say()
    );
    Ok(())
}

fn endpoint(name: &str) -> String {
    let found = HOSTS.iter().find(|(host, _)| *host == name);
    found.map_or_else(String::new, |(_, address)| format!("{address}:6443"))
}

/// Fails unless every apiserver answers the stolen kubelet with one of these.
fn expect(stolen: &Root, wanted: &[u16]) -> Result<()> {
    for (name, address) in HOSTS {
        let status = ask(stolen, "n1", address)?;
        ensure!(
            wanted.contains(&status),
            "{name} answers the stolen certificate {status}, not {wanted:?}"
        );
    }
    Ok(())
}
