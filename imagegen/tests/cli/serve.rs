//! `imagegen serve` and `imagegen iso` with a small `pxe/`: curl, TFTP and raw connections, on
//! loopback and in a network namespace of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use imagegen::digest::digest_file;
use imagegen::image::live;
use imagegen::serve::AUTOEXEC;

use crate::work::{Work, skip, stderr};

/// The documents of all hosts, and small files in the place of kernel and root.
pub(crate) fn work() -> Work {
    let work = Work::new();
    work.userdata();
    let folder = work.path("prod/pxe");
    fs::create_dir(&folder).unwrap();
    fs::write(work.path("prod/node.raw"), "image").unwrap();
    let manifest = work.path("prod/manifest.json");
    let mut value: serde_json::Value =
        serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let digest = digest_file(&work.path("prod/node.raw")).unwrap();
    value["outputs"]["node.raw"] = digest.clone().into();
    value["inputs"]["pxe-image"] = digest.into();
    for name in live::FILES {
        // Long enough for several parts.
        fs::write(folder.join(name), name.repeat(100_000)).unwrap();
        let digest = digest_file(&folder.join(name)).unwrap();
        value["outputs"][format!("pxe/{name}")] = digest.into();
    }
    value["image"] = serde_json::json!({
        "package": "sha256:0", "root_hash": "5a".repeat(32), "kernel_release": "6",
        "root_size": 1, "uki_size": 1, "stages": [],
    });
    fs::write(manifest, serde_json::to_vec(&value).unwrap()).unwrap();
    work
}

/// A running server.
struct Serve {
    child: Child,
    url: String,
    lines: BufReader<std::process::ChildStdout>,
}

impl Serve {
    fn start(work: &Work) -> Self {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("imagegen"));
        command.args(["serve", "--address", "127.0.0.1", "--port", "0"]);
        let mut child = command
            .arg(work.path("prod"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let url = line.split_once(" at ").unwrap().1.trim();
        let url = url.strip_suffix(live::SCRIPT).unwrap().to_owned();
        Self { child, url, lines }
    }

    fn address(&self) -> &str {
        self.url["http://".len()..].trim_end_matches('/')
    }

    /// Status and body of curl's request.
    fn curl(&self, arguments: &[&str], path: &str) -> (String, Vec<u8>) {
        let mut curl = Command::new("curl");
        // `--path-as-is`: curl would resolve `..` itself.
        curl.args([
            "--silent",
            "--path-as-is",
            "--max-time",
            "60",
            "--noproxy",
            "*",
        ]);
        curl.args(["--write-out", "%{stderr}%{http_code}"]);
        let output = curl
            .args(arguments)
            .arg(format!("{}{path}", self.url))
            .output()
            .expect("curl");
        (stderr(&output), output.stdout)
    }

    /// What the server answers to these bytes.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        // The server may close before it has read everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn files_come_whole_and_in_parts() {
    let work = work();
    let serve = Serve::start(&work);
    let root = fs::read(work.path("prod/pxe/root.erofs")).unwrap();
    assert_eq!(serve.curl(&[], live::ROOT), ("200".into(), root.clone()));
    let part = serve.curl(&["--range", "5-104"], live::ROOT);
    assert_eq!(part, ("206".into(), root[5..105].to_vec()));
    let (status, head) = serve.curl(&["--head"], live::LOADER);
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert_eq!(status, "200");
    for line in [
        "content-type: application/efi",
        "accept-ranges: bytes",
        "content-length: 1100000",
    ] {
        assert!(head.contains(line), "{line}\n{head}");
    }
    assert_eq!(serve.curl(&["--range", "99999999-"], live::ROOT).0, "416");
    let old = ["--range", "0-0", "--header", "If-Range: \"old\""];
    assert_eq!(serve.curl(&old, live::ROOT), ("200".into(), root));
}

#[test]
fn paths_methods_and_broken_requests_are_refused() {
    let work = work();
    let serve = Serve::start(&work);
    for path in [
        "",
        "pki/ca.key",
        "../pki/ca.key",
        "../../../../etc/passwd",
        "%2e%2e/pki/ca.key",
        "pxe/vmlinuz",
        "hosts/",
        "hosts/m0/user-data",
        "hosts/52-54-00-00-07-10/../../pki/ca.key",
        "hosts/52-54-00-00-07-10/seed.img",
    ] {
        let (status, body) = serve.curl(&[], path);
        assert_eq!(status, "404", "{path}");
        let body = String::from_utf8(body).unwrap();
        assert_eq!(body, "there is no such file here\n", "{path}");
    }
    assert_eq!(serve.curl(&["--request", "PUT"], live::ROOT).0, "405");
    for (bytes, status) in [
        (&b"GET\r\n\r\n"[..], "400"),
        (b"\x16\x03\x01\x02\x00\x01", "400"),
        (
            &[&b"GET / HTTP/1.1\r\nX: "[..], &[b'a'; 40_000]].concat(),
            "431",
        ),
    ] {
        let answer = serve.raw(bytes);
        let line = answer.lines().next().unwrap_or_default();
        assert!(line.contains(status), "{status}: {answer}");
    }
    // It still serves.
    assert_eq!(serve.curl(&[], live::SCRIPT).0, "200");
}

#[test]
fn ipxe_is_led_to_the_script_of_the_server_that_it_asks() {
    let work = work();
    let serve = Serve::start(&work);
    let (status, body) = serve.curl(&[], AUTOEXEC);
    let script = format!("#!ipxe\ndhcp\nchain {}boot.ipxe\n", serve.url);
    assert_eq!((status.as_str(), body), ("200", script.into_bytes()));
}

#[test]
fn many_clients_at_once_get_every_byte() {
    let work = work();
    let serve = Serve::start(&work);
    let root = fs::read(work.path("prod/pxe/root.erofs")).unwrap();
    // Connections that say nothing take no place from others.
    let silent: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(serve.address()).unwrap())
        .collect();
    let served = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| serve.curl(&[], live::ROOT)))
            .collect();
        let answers = clients.into_iter().map(|client| client.join().unwrap());
        answers
            .filter(|(status, body)| status == "200" && *body == root)
            .count()
    });
    assert_eq!(served, 4);
    drop(silent);
}

#[test]
fn document_is_refused_to_another_machine_with_the_reason() {
    let work = work();
    let mut serve = Serve::start(&work);
    // Loopback has no network card, and is no host's address.
    let (status, body) = serve.curl(&[], "hosts/52-54-00-00-07-10/user-data");
    let body = String::from_utf8(body).unwrap();
    assert_eq!(status, "403");
    assert!(
        body.contains("the document of m0 is for the MAC address 52:54:00:00:07:10")
            && !body.contains("cloud-config"),
        "{body}"
    );
    let (status, body) = serve.curl(&[], "hosts/52-54-00-00-99-99/user-data");
    assert_eq!(status, "404");
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains("no host of this cluster has"), "{body}");
    // Both are in the log.
    let mut log = String::new();
    while !log.contains("99-99") {
        assert_ne!(serve.lines.read_line(&mut log).unwrap(), 0, "{log}");
    }
    assert!(
        log.contains("refused /hosts/52-54-00-00-07-10/user-data"),
        "{log}"
    );
}

#[test]
fn folder_without_files_for_the_network_is_refused() {
    let work = Work::new();
    work.userdata();
    let output = work.run(&["serve", "prod"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("imagegen image --pxe"), "{text}");
    let output = work.run(&["serve", "."]);
    let text = stderr(&output);
    assert!(text.contains("not an output folder of imagegen"), "{text}");
    let output = work.run(&["serve", "prod", "--dhcp", "full"]);
    assert_eq!(output.status.code(), Some(2), "--dhcp needs --interface");
}

#[test]
fn files_of_an_earlier_image_are_refused() {
    let work = work();
    let manifest = work.path("prod/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["outputs"]["node.raw"] = "sha256:1".into();
    fs::write(&manifest, serde_json::to_vec(&value).unwrap()).unwrap();
    for command in [
        &["serve", "prod"][..],
        &["iso", "-o", "prod", "--host", "m0"],
    ] {
        let text = stderr(&work.run(command));
        assert!(text.contains("is of an earlier node image"), "{text}");
    }
    assert!(!work.path("m0.iso").exists());
}

/// A room of two machines: a server, and a client whose card has the MAC address of a host.
#[test]
fn host_gets_loader_and_document_in_its_own_network() {
    if !nix::unistd::geteuid().is_root() {
        return skip("a network namespace needs root");
    }
    let work = work();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/serve_room.sh");
    let mut room = Command::new("unshare");
    room.args([
        "--net",
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
    ]);
    room.args(["--mount-proc", "sh", script]);
    room.arg(assert_cmd::cargo::cargo_bin!("imagegen"));
    let output = room.current_dir(work.path("")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
    assert!(output.status.success(), "{text}");
    let same = |got: &str, wanted: &str| {
        fs::read(work.path(got)).unwrap() == fs::read(work.path(wanted)).unwrap()
    };
    assert!(same("got.efi", "prod/pxe/snponly.efi"), "{text}");
    let script = fs::read_to_string(work.path("got.autoexec")).unwrap();
    assert!(
        script.ends_with("\nchain http://192.168.7.1:8069/boot.ipxe\n"),
        "{script}"
    );
    assert!(same("got.user-data", "prod/hosts/m0/user-data"), "{text}");
    let refused = fs::read_to_string(work.path("got.refused")).unwrap();
    assert!(
        refused.contains("comes from 52:54:00:00:07:10: boot from the network card"),
        "{refused}"
    );
    let log = fs::read_to_string(work.path("serve.log")).unwrap();
    for line in [
        "m0: user-data fetched",
        // The client's address is not that of the topology.
        "m0: snponly.efi fetched",
        "DHCP and TFTP on server0",
    ] {
        assert!(log.contains(line), "{line}\n{log}");
    }
}
