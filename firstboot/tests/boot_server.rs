//! A boot server's answers, from a real connection on loopback: parts of the root, documents,
//! refusals.

#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files as it likes"
)]

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::TcpListener;
use std::thread;

use assert_cmd::Command;
use firstboot::live::fetch::Server;

/// Answers each request, by its path and its range, until the test ends.
fn serve(answer: impl Fn(&str, Option<&str>) -> (String, Vec<u8>) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let range = request
                .lines()
                .find_map(|line| line.strip_prefix("range: bytes="));
            let (head, body) = answer(&path, range);
            let length = body.len();
            let head =
                format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&body);
        }
    });
    base
}

/// A server that honours ranges of `file`.
fn in_parts(file: &'static [u8], range: Option<&str>) -> (String, Vec<u8>) {
    let total = file.len();
    let (first, last) = range.and_then(|range| range.split_once('-')).unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let last = last.min(total - 1);
    let head = format!("206 Partial Content\r\ncontent-range: bytes {first}-{last}/{total}");
    (head, file[first..=last].to_vec())
}

#[test]
fn large_file_arrives_in_parts() {
    const SIZE: usize = (20 << 20) + 77;
    let file: &'static [u8] = (0..SIZE)
        .map(|at| (at / 1000) as u8)
        .collect::<Vec<_>>()
        .leak();
    let server = Server::new(&serve(move |_, range| in_parts(file, range)));
    let total = server.size("root.erofs").unwrap();
    assert_eq!(total, SIZE as u64);
    let mut out = tempfile::tempfile().unwrap();
    let (mut at, mut parts) = (0, 0);
    while at < total {
        at = server.copy_part("root.erofs", at, total, &mut out).unwrap();
        parts += 1;
    }
    assert_eq!(parts, 3);
    assert_eq!(contents(&mut out), file);
    let mut bytes = file[..5].to_vec();
    server.append_part("disk.efi", total, &mut bytes).unwrap();
    assert_eq!(bytes, file[..5 + (8 << 20)]);
}

fn contents(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn file_that_changes_between_parts_is_an_error() {
    let server = Server::new(&serve(|_, range| in_parts(b"0123456789", range)));
    let mut out = tempfile::tempfile().unwrap();
    let error = server.copy_part("root.erofs", 0, 11, &mut out).unwrap_err();
    assert!(error.to_string().contains("the file changed"), "{error}");
    assert_eq!(contents(&mut out), b"");
}

#[test]
fn server_without_ranges_and_refusals_are_explained() {
    let base = serve(|path, _| match path {
        "/root.erofs" => ("200 OK".to_owned(), b"all of it".to_vec()),
        "/moved" => ("301 Moved\r\nlocation: /root.erofs".to_owned(), Vec::new()),
        _ => ("403 Forbidden".to_owned(), b"not for you\n".to_vec()),
    });
    let server = Server::new(&base);
    let error = |name: &str| format!("{:#}", server.size(name).unwrap_err());
    assert!(error("root.erofs").contains("answers ranges"));
    assert!(error("moved").contains("301"), "{}", error("moved"));
    assert!(error("hosts/x").ends_with("/hosts/x: not for you"));
    let answer = server.small("hosts/x/user-data").unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (403, "not for you".into())
    );
    let gone = Server::new("http://127.0.0.1:1/");
    let error = format!("{:#}", gone.size("root.erofs").unwrap_err());
    assert!(
        error.starts_with("http://127.0.0.1:1/root.erofs: "),
        "{error}"
    );
}

#[test]
fn only_a_machine_without_a_disk_is_installed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("proc")).unwrap();
    for (line, why) in [
        ("root=/dev/mapper/root", "boots from its own disk"),
        ("firstlight.root=medium", "boot it by PXE"),
        ("firstlight.root=ftp://a/", "neither `medium` nor a URL"),
    ] {
        std::fs::write(dir.path().join("proc/cmdline"), line).unwrap();
        let mut command = Command::cargo_bin("firstboot").unwrap();
        command.arg("--root").arg(dir.path());
        let output = command
            .args(["install", "--to", "/dev/null", "--yes"])
            .output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(why), "{line}: {text}");
    }
}
