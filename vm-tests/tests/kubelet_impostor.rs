//! The apiserver opens `logs` and `exec` at a kubelet that has the certificate of its host, and at
//! no other server on the host's address: such a server sees neither the apiserver's certificate nor
//! a request. etcd and kube-apiserver are real; the kubelets are TLS servers of this test.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firstboot::kube::client::Client;
use firstboot::system::files::Root;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, Stream};
use serde_json::json;
use userdata::contract::{KUBELET_CERTIFICATE, KUBELET_KEY, STATUS_CERTIFICATE, STATUS_KEY};
use vm_tests::control_plane::{ADDRESS, ADMIN, ControlPlane, ENDPOINT, in_network};
use vm_tests::host::run_dir::RunDir;

const TOPOLOGY: &str = "\
apiVersion: firstlight/v1
kind: Cluster
name: impostor
hosts:
- { name: m0, role: master, address: 192.168.7.10/24, mac: \"52:54:00:00:07:10\" }
- { name: w1, role: node, address: 192.168.7.21/24, mac: \"52:54:00:00:07:21\" }
- { name: w2, role: node, address: 192.168.7.22/24, mac: \"52:54:00:00:07:22\" }
";
/// The host that the impostors play.
const W1: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 21);
const PORT: u16 = 10250;
const CLUSTER_AUTHORITY: &str = "/etc/kubernetes/pki/ca.crt";
const TEXT: &str = "a line of the container\n";

#[test]
fn apiserver_refuses_impostors_of_a_kubelet() -> Result<()> {
    let run_dir = RunDir::new("kubelet_impostor")?;
    let other_dir = RunDir::new("kubelet_impostor_other")?;
    let cluster = ControlPlane::new(&run_dir, TOPOLOGY)?;
    let w1 = cluster.root("w1")?;
    let w2 = cluster.root("w2")?;
    // The same host of another output folder of imagegen.
    let other = ControlPlane::new(&other_dir, TOPOLOGY)?.root("w1")?;
    let kubelet = [KUBELET_CERTIFICATE, KUBELET_KEY];
    let status = [STATUS_CERTIFICATE, STATUS_KEY];
    in_network(&[("m0", ADDRESS)], |network| {
        network.add_address(W1)?;
        let members = format!("m0=https://{ADDRESS}:2380");
        let _etcd = cluster.etcd(network, "m0", &members, false)?;
        let mut apiserver = cluster.apiserver(network, "m0")?;
        let master = Root::new(cluster.root("m0")?);
        let client = apiserver.wait("become ready", || {
            let client = Client::from_kubeconfig(&master, ADMIN, ENDPOINT)?;
            client.get("/readyz")?.ok()?;
            Ok(client)
        })?;
        // The apiserver makes the namespace soon after it is ready.
        apiserver.wait("take a Pod", || create_pod(&client))?;
        let asked = Asked {
            client: &client,
            kubectl: cluster.kubectl(),
            master: cluster.root("m0")?,
        };

        for (name, root, files, error) in [
            ("another cluster's w1", &other, kubelet, "unknown authority"),
            (
                "w2 with its kubelet's certificate",
                &w2,
                kubelet,
                "not 192.168.7.21",
            ),
            (
                "w2 with its status certificate",
                &w2,
                status,
                "not 192.168.7.21",
            ),
        ] {
            let server = Server::new(root, files, &w1)?;
            let ((logs, exec), seen) = server.serve(|| Ok((asked.logs()?, asked.exec()?)))?;
            for text in [&logs.1, &exec.1] {
                ensure!(text.contains("x509: "), "{name}: {text}");
                ensure!(text.contains(error), "{name}: {text}");
            }
            ensure!(logs.0 && exec.0, "{name}: {logs:?}, {exec:?}");
            ensure!(seen.len() >= 2, "{name} was not asked twice: {seen:?}");
            let saw = |one: &Seen| one.has_client || one.request.is_some();
            ensure!(!seen.iter().any(saw), "{name} saw the apiserver: {seen:?}");
        }

        // The kubelet of the host, by the same way.
        let server = Server::new(&w1, kubelet, &w1)?;
        let ((logs, _), seen) = server.serve(|| Ok((asked.logs()?, asked.exec()?)))?;
        ensure!(logs == (false, TEXT.to_owned()), "{logs:?}");
        for path in [" /containerLogs/default/web/c", " /exec/default/web/c"] {
            let is_asked = |one: &Seen| {
                let request = one.request.as_deref().unwrap_or_default();
                one.has_client && request.contains(path)
            };
            ensure!(seen.iter().any(is_asked), "no `{path}` in {seen:?}");
        }
        Ok(())
    })?;
    run_dir.passed();
    other_dir.passed();
    Ok(())
}

/// A Pod on w1, and what it needs: there are no controllers and no kubelet.
fn create_pod(client: &Client) -> Result<()> {
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": "w1" },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": W1 }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": PORT } },
        },
    });
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": "default" },
    });
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "web" },
        "spec": {
            "nodeName": "w1",
            "automountServiceAccountToken": false,
            "containers": [{ "name": "c", "image": "nowhere/c:1" }],
        },
    });
    for (path, object) in [
        ("/api/v1/nodes", node),
        ("/api/v1/namespaces/default/serviceaccounts", account),
        ("/api/v1/namespaces/default/pods", pod),
    ] {
        let answer = client.send("POST", path, &object)?;
        // From an earlier attempt.
        if answer.status != 409 {
            answer.ok()?;
        }
    }
    Ok(())
}

/// An administrator who asks the apiserver for something of the Pod.
struct Asked<'a> {
    client: &'a Client,
    kubectl: &'a Path,
    master: PathBuf,
}

impl Asked<'_> {
    /// Whether it failed, and the logs or the error.
    fn logs(&self) -> Result<(bool, String)> {
        let path = "/api/v1/namespaces/default/pods/web/log?container=c";
        let answer = self.client.get(path)?;
        let text = answer.body.as_str().map(str::to_owned);
        let has_failed = answer.status != 200;
        Ok((has_failed, text.unwrap_or_else(|| answer.say())))
    }

    /// Whether it failed, and the output.
    fn exec(&self) -> Result<(bool, String)> {
        let mut kubectl = Command::new(self.kubectl);
        let admin = self.master.join(ADMIN.trim_start_matches('/'));
        kubectl.arg("--kubeconfig").arg(admin);
        let cache = self.master.join("kubectl");
        kubectl.arg("--cache-dir").arg(cache);
        kubectl.arg(format!("--server=https://{ENDPOINT}"));
        kubectl.args(["exec", "web", "--container=c", "--", "id"]);
        let Output {
            status,
            stdout,
            stderr,
        } = kubectl.output().context("starting kubectl")?;
        let text = [stdout, stderr].concat();
        Ok((
            !status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        ))
    }
}

/// What one connection showed the server.
#[derive(Debug, Default)]
struct Seen {
    has_client: bool,
    /// The first line of the request.
    request: Option<String>,
    error: Option<String>,
}

/// A TLS server on the address of w1, which asks for a client certificate as a kubelet does.
struct Server {
    listener: TcpListener,
    config: Arc<ServerConfig>,
}

impl Server {
    /// With certificate and key of a host's `root`; it believes the clients that `host` does.
    fn new(root: &Path, files: [&str; 2], host: &Path) -> Result<Self> {
        let read = |root: &Path, path: &str| {
            let path = root.join(path.trim_start_matches('/'));
            fs::read(&path).with_context(|| format!("reading `{}`", path.display()))
        };
        let [certificate, key] = files;
        let certificate = read(root, certificate)?;
        let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&read(root, key)?)?;
        let mut roots = RootCertStore::empty();
        for one in CertificateDer::pem_slice_iter(&read(host, CLUSTER_AUTHORITY)?) {
            roots.add(one?)?;
        }
        let provider = Arc::new(ring::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)?;
        let listener = TcpListener::bind((W1, PORT)).context("listening as w1's kubelet")?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            config: Arc::new(config),
        })
    }

    /// Serves while `ask` runs; returns its result and what the connections showed.
    fn serve<T>(self, ask: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Seen>)> {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                let mut seen = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    match self.listener.accept() {
                        Ok((stream, _)) => {
                            let mut one = Seen::default();
                            if let Err(error) = self.answer(stream, &mut one) {
                                one.error = Some(format!("{error:#}"));
                            }
                            seen.push(one);
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            std::thread::sleep(Duration::from_millis(10));
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok(seen)
            });
            let asked = ask();
            is_over.store(true, Ordering::Relaxed);
            let seen = match server.join() {
                Ok(seen) => seen.context("accepting connections")?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            Ok((asked?, seen))
        })
    }

    fn answer(&self, mut socket: TcpStream, seen: &mut Seen) -> Result<()> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut connection = ServerConnection::new(self.config.clone())?;
        while connection.is_handshaking() {
            let shaken = connection.complete_io(&mut socket);
            seen.has_client = connection.peer_certificates().is_some();
            shaken.context("the handshake")?;
        }
        let mut stream = Stream::new(&mut connection, &mut socket);
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        seen.request = head.lines().next().map(str::to_owned);
        // `exec` asks for another protocol, and this answer ends it.
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{TEXT}",
            TEXT.len()
        );
        stream.write_all(answer.as_bytes())?;
        connection.send_close_notify();
        connection.complete_io(&mut socket)?;
        Ok(())
    }
}
