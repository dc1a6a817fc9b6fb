//! A client of one apiserver: TLS with the cluster's CA and a client certificate, JSON, watches.
//!
//! Not a Kubernetes library: no types, no caches, no retries.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{Request, Response};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::system::files::Root;

/// Long, for a slow apiserver. A connection attempt detects a dead one.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The error of a connection that ends too early.
pub const CLOSED: &str = "connection closed before an answer";
/// The error of a port without a listener.
pub const REFUSED: &str = "connection refused";
/// The server ends a watch after this time.
const WATCH_SECONDS: u64 = 300;
/// After this time the connection of a watch is dead.
const WATCH_WITHIN: Duration = Duration::from_secs(WATCH_SECONDS + 60);
/// No answer and no event comes near this size: etcd takes objects up to 1.5 MiB.
const LIMIT: u64 = 16 << 20;

pub struct Client {
    agent: Agent,
    base: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.base)
    }
}

/// An HTTP answer: status and body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The body of a success, or the server's message as an error.
    pub fn ok(self) -> Result<Value> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        bail!("{}", self.say())
    }

    /// Status and message in one line.
    pub fn say(&self) -> String {
        match (self.body["message"].as_str(), self.body.as_str()) {
            (Some(message), _) => format!("{}: {message}", self.status),
            (None, Some(text)) if !text.trim().is_empty() => {
                // `/readyz` has one line for each check; failed ones begin with a minus.
                let failed: Vec<_> = text
                    .lines()
                    .filter(|line| line.starts_with("[-]"))
                    .collect();
                let text = if failed.is_empty() {
                    text.trim().to_owned()
                } else {
                    failed.join(", ")
                };
                format!("{}: {text}", self.status)
            }
            _ => format!("HTTP status {}", self.status),
        }
    }
}

impl Client {
    /// With the CA and client certificate of a kubeconfig, but for `https://<endpoint>` instead of
    /// its server: on the first boot of a control-plane host that domain may not answer yet.
    pub fn from_kubeconfig(root: &Root, path: &str, endpoint: &str) -> Result<Self> {
        Self::with_kubeconfig(root, path, endpoint, ANSWER_WITHIN, None)
    }

    /// As [`Self::from_kubeconfig`], with a timeout for the complete response.
    pub fn from_kubeconfig_within(
        root: &Root,
        path: &str,
        endpoint: &str,
        within: Duration,
    ) -> Result<Self> {
        Self::with_kubeconfig(root, path, endpoint, within, Some(within))
    }

    fn with_kubeconfig(
        root: &Root,
        path: &str,
        endpoint: &str,
        answer_within: Duration,
        all_within: Option<Duration>,
    ) -> Result<Self> {
        let bytes = root
            .read(path)?
            .with_context(|| format!("`{path}` is missing"))?;
        let text = String::from_utf8(bytes).with_context(|| format!("reading `{path}`"))?;
        let config = yaml::parse_redacted::<Value>(path, &text)
            .map_err(|found| anyhow!("{}", found.lines().collect::<Vec<_>>().join("\n")))?
            .value;
        let data = |list: &str, entry: &str, key: &str| -> Result<Vec<u8>> {
            let text = config[list][0][entry][key]
                .as_str()
                .with_context(|| format!("`{path}` has no `{key}`"))?;
            BASE64_STANDARD
                .decode(text.trim())
                .with_context(|| format!("decoding `{key}` of `{path}`"))
        };
        let authority = certificates(&data("clusters", "cluster", "certificate-authority-data")?)?;
        let chain = certificates(&data("users", "user", "client-certificate-data")?)?;
        // The error may quote the key.
        let key = PrivateKey::from_pem(&data("users", "user", "client-key-data")?)
            .map_err(|_| anyhow!("`{path}`: the client key is invalid"))?;
        Ok(Self::new(
            authority,
            Some(ClientCert::new_with_certs(&chain, key)),
            endpoint,
            answer_within,
            all_within,
        ))
    }

    /// Without a client certificate, to check whether a server with a certificate of this CA
    /// answers. No listener is an error.
    pub fn anonymous(authority: &[u8], endpoint: &str, answer_within: Duration) -> Result<Self> {
        // Connect first: usually nothing listens, and setting up TLS is half of the cost of a first
        // boot.
        let address: SocketAddr = endpoint
            .parse()
            .with_context(|| format!("`{endpoint}` is not an address and port"))?;
        TcpStream::connect_timeout(&address, CONNECT_WITHIN.min(answer_within))
            .with_context(|| format!("connecting to `{endpoint}`"))?;
        Ok(Self::new(
            certificates(authority)?,
            None,
            endpoint,
            answer_within,
            None,
        ))
    }

    /// With a CA certificate, a client certificate and its key in PEM files, as for etcd.
    pub fn from_files(root: &Root, endpoint: &str, paths: [&str; 3]) -> Result<Self> {
        let read = |path: &str| {
            root.read(path)?
                .with_context(|| format!("`{path}` is missing"))
        };
        let [authority, certificate, key] = paths;
        let chain = certificates(&read(certificate)?)?;
        let private = PrivateKey::from_pem(&read(key)?)
            .map_err(|_| anyhow!("`{key}`: the client key is invalid"))?;
        Ok(Self::new(
            certificates(&read(authority)?)?,
            Some(ClientCert::new_with_certs(&chain, private)),
            endpoint,
            // A caller that tries several hosts in turn must not hang at one that is gone.
            Duration::from_secs(15),
            None,
        ))
    }

    fn new(
        authority: Vec<Certificate<'static>>,
        client: Option<ClientCert>,
        endpoint: &str,
        answer_within: Duration,
        all_within: Option<Duration>,
    ) -> Self {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&authority))
            .client_cert(client)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            // No proxy of the environment: the apiserver is on this machine or in its network.
            .proxy(None)
            // A redirect would take the request to a server that was not asked for.
            .max_redirects(0)
            .https_only(true)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_WITHIN.min(answer_within)))
            .timeout_recv_response(Some(answer_within))
            .timeout_recv_body(Some(answer_within))
            .timeout_global(all_within)
            .build()
            .new_agent();
        Self {
            agent,
            base: format!("https://{endpoint}"),
        }
    }

    /// Base URL: `https://192.168.7.10:6443`.
    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn get(&self, path: &str) -> Result<Answer> {
        let request = Request::get(format!("{}{path}", self.base))
            .body(())
            .context("building a request")?;
        read(self.agent.run(request).map_err(|error| explain(&error))?)
    }

    /// Server-side apply: creates the object or changes the fields that `object` has.
    pub fn apply(&self, path: &str, object: &Value) -> Result<Answer> {
        let request = Request::patch(format!(
            "{}{path}?fieldManager=firstlight&force=true",
            self.base
        ))
        // JSON is YAML.
        .header("content-type", "application/apply-patch+yaml")
        .body(object.to_string())
        .context("building a request")?;
        read(self.agent.run(request).map_err(|error| explain(&error))?)
    }

    /// Sends an object: `POST` creates it, `PUT` replaces the version that it names, `PATCH` merges
    /// it.
    pub fn send(&self, method: &str, path: &str, object: &Value) -> Result<Answer> {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("content-type", kind)
            .body(object.to_string())
            .context("building a request")?;
        read(self.agent.run(request).map_err(|error| explain(&error))?)
    }

    /// Watches a list and calls `look` with each object, existing ones first, until it returns a
    /// value. `None`: the server ended the watch.
    pub fn watch<T>(
        &self,
        path: &str,
        query: &str,
        mut look: impl FnMut(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let url = format!(
            "{}{path}?{query}&watch=true&timeoutSeconds={WATCH_SECONDS}",
            self.base
        );
        let request = Request::get(url).body(()).context("building a request")?;
        let request = self
            .agent
            .configure_request(request)
            .timeout_recv_body(Some(WATCH_WITHIN))
            .build();
        let response = self.agent.run(request).map_err(|error| explain(&error))?;
        if !response.status().is_success() {
            read(response)?.ok()?;
            return Ok(None);
        }
        let mut events = BufReader::new(response.into_body().into_reader());
        while let Some(line) = line(&mut events)? {
            let event: Value = serde_json::from_slice(&line).context("reading a watch")?;
            ensure!(
                event["type"] != "ERROR",
                "watching `{path}`: {}",
                event["object"]["message"]
            );
            if let Some(answer) = look(&event["object"]) {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }
}

/// The next event of a watch; `None` at its end.
fn line(events: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut limited = events.take(LIMIT);
    limited
        .read_until(b'\n', &mut line)
        .context("reading a watch")?;
    ensure!(
        limited.limit() > 0,
        "reading a watch: an event has more than {} MiB",
        LIMIT >> 20
    );
    Ok((!line.is_empty()).then_some(line))
}

fn read(mut response: Response<ureq::Body>) -> Result<Answer> {
    let status = response.status().as_u16();
    let text = response
        .body_mut()
        .with_config()
        .limit(LIMIT)
        .read_to_string()
        .map_err(|error| explain(&error))?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Answer { status, body })
}

/// Shortens errors such as `io: Connection refused (os error 111)`.
fn explain(error: &ureq::Error) -> anyhow::Error {
    use std::io::ErrorKind::{
        BrokenPipe, ConnectionReset, HostUnreachable, NetworkUnreachable, UnexpectedEof,
    };
    match error {
        ureq::Error::Io(error)
            if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) =>
        {
            anyhow!(CLOSED)
        }
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            anyhow!(REFUSED)
        }
        ureq::Error::Io(error) if matches!(error.kind(), HostUnreachable | NetworkUnreachable) => {
            anyhow!("no route to host; is it powered on?")
        }
        ureq::Error::Timeout(_) => anyhow!("timed out"),
        error => anyhow!("{error}"),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) =
            item.map_err(|error| anyhow!("reading a certificate: {error}"))?
        {
            found.push(certificate);
        }
    }
    ensure!(!found.is_empty(), "the PEM has no certificate");
    Ok(found)
}
