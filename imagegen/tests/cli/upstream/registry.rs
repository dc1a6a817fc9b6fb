//! A real registry: Debian's docker-registry with TLS and a password.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use build_tools::process;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::server::Certificates;
use crate::package::Raw;

pub(super) const USER: &str = "tester:secret";
/// bcrypt of `secret` with the least cost.
const PASSWORDS: &str = "tester:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

pub(super) struct Registry {
    child: Child,
    folder: PathBuf,
    pub(super) port: u16,
}

impl Registry {
    pub(super) fn start(folder: &Path, certificates: &Certificates) -> Self {
        // All that the tests and imagegen run: two of them must not call apt at once.
        for (program, package) in [("curl", "curl"), ("skopeo", "skopeo")] {
            process::require(program, package).expect("a program of the tests");
        }
        let program = process::require("docker-registry", "docker-registry").expect("a registry");
        fs::create_dir_all(folder.join("authority")).expect("a folder");
        for (name, text) in [
            ("certificate.pem", certificates.certificate.as_str()),
            ("key.pem", &certificates.key),
            ("authority/ca.crt", &certificates.authority),
            ("passwords", PASSWORDS),
        ] {
            fs::write(folder.join(name), text).expect("writing");
        }
        // A free port: the registry reports none that it chose.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let at = |name: &str| folder.join(name).display().to_string();
        let config = json!({
            "version": "0.1",
            "log": {"accesslog": {"disabled": false}},
            "storage": {"filesystem": {"rootdirectory": at("storage")}},
            "http": {
                "addr": format!("127.0.0.1:{port}"),
                "tls": {"certificate": at("certificate.pem"), "key": at("key.pem")},
            },
            "auth": {"htpasswd": {"realm": "test", "path": at("passwords")}},
        });
        // JSON is YAML.
        fs::write(folder.join("config.yml"), config.to_string()).expect("writing");
        let log = fs::File::create(folder.join("log")).expect("a file");
        let child = Command::new(program)
            .arg("serve")
            .arg(folder.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("starting the registry");
        let registry = Self {
            child,
            folder: folder.to_owned(),
            port,
        };
        registry.wait();
        registry
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < end, "no registry: {}", log());
            std::thread::yield_now();
        }
    }

    /// The base of image names here.
    pub(super) fn name(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Puts an image for two architectures under a name of upstream.
    pub(super) fn push(&self, name: &str) {
        let layout = self.folder.join("layout");
        let _ = fs::remove_dir_all(&layout);
        write_layout(&layout, name);
        let skopeo = process::require("skopeo", "skopeo").expect("skopeo");
        let done = Command::new(skopeo)
            .args(["--insecure-policy", "copy", "--all", "--quiet"])
            .args(["--dest-creds", USER, "--dest-cert-dir"])
            .arg(self.folder.join("authority"))
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{}/{name}", self.name()))
            .output()
            .expect("running skopeo");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "pushing {name}: {said}");
    }

    /// The file of a blob.
    pub(super) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = "storage/docker/registry/v2/blobs/sha256";
        self.folder
            .join(blobs)
            .join(&hex[..2])
            .join(hex)
            .join("data")
    }

    /// How many blobs clients have asked for: layers and configurations.
    pub(super) fn blob_requests(&self) -> usize {
        let log = fs::read_to_string(self.folder.join("log")).expect("the log");
        let asked = |line: &&str| line.contains("\"GET /v2/") && line.contains("/blobs/");
        log.lines().filter(asked).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The layer of an image for one architecture.
pub(super) fn layer(name: &str, architecture: &str) -> Vec<u8> {
    let mut raw = Raw::new();
    let text = format!("{name} {architecture}\n");
    raw.add("name", EntryType::Regular, "", text.as_bytes());
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &raw.bytes()).expect("in memory");
    packed.finish().expect("in memory")
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// An OCI layout with an image index.
fn write_layout(folder: &Path, name: &str) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a folder");
    let blob = |kind: &str, bytes: &[u8]| {
        fs::write(blobs.join(sha256(bytes)), bytes).expect("writing");
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len()})
    };
    let of = |architecture: &str| {
        let packed = layer(name, architecture);
        let mut plain = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(packed.as_slice());
        std::io::Read::read_to_end(&mut reader, &mut plain).expect("in memory");
        let config = json!({"architecture": architecture, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&plain))]}});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("config.v1+json", config.to_string().as_bytes()),
            "layers": [blob("layer.v1.tar+gzip", &packed)],
        });
        let mut entry = blob("manifest.v1+json", manifest.to_string().as_bytes());
        entry["platform"] = json!({"architecture": architecture, "os": "linux"});
        entry
    };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [of("arm64"), of("amd64")],
    });
    let top = blob("index.v1+json", index.to_string().as_bytes());
    let top = json!({"schemaVersion": 2, "manifests": [top]});
    fs::write(folder.join("index.json"), top.to_string()).expect("writing");
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("writing");
}
