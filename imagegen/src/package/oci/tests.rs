//! Complete and broken archives.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

fn sha(bytes: &[u8]) -> String {
    digest::hex(&Sha256::digest(bytes))
}

fn tar(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        builder
            .append_data(&mut header, name, bytes.as_slice())
            .expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).expect("in memory");
    packer.finish().expect("in memory")
}

fn layer() -> Vec<u8> {
    tar(&[("etc/hello".to_owned(), b"world".to_vec())])
}

fn config(diff_ids: &[String]) -> Vec<u8> {
    serde_json::to_vec(&json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}))
        .expect("plain values")
}

/// An OCI layout with one image of one layer, stored as `stored`.
fn oci(stored: &[u8], change: impl FnOnce(&mut Vec<(String, Vec<u8>)>)) -> Vec<u8> {
    let config = config(&[format!("sha256:{}", sha(&layer()))]);
    let descriptor = |bytes: &[u8]| json!({"mediaType": "x", "digest": format!("sha256:{}", sha(bytes)), "size": bytes.len()});
    let manifest =
        json!({"schemaVersion": 2, "config": descriptor(&config), "layers": [descriptor(stored)]})
            .to_string()
            .into_bytes();
    let mut entry: Value = descriptor(&manifest);
    entry["annotations"] = json!({"io.containerd.image.name": "example.org/a:1"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]})
        .to_string()
        .into_bytes();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", sha(bytes));
    let mut entries = vec![
        ("oci-layout".to_owned(), b"{}".to_vec()),
        ("index.json".to_owned(), index),
        (blob(&config), config),
        (blob(&manifest), manifest),
        (blob(stored), stored.to_vec()),
    ];
    change(&mut entries);
    tar(&entries)
}

fn docker(config_name: Option<&str>) -> Vec<u8> {
    let config = config(&[format!("sha256:{}", sha(&layer()))]);
    let name = config_name.map_or_else(|| format!("{}.json", sha(&config)), str::to_owned);
    let manifest = json!([{"Config": name, "RepoTags": ["a:1", "example.org/b:2"], "Layers": ["x/layer.tar"]}]);
    tar(&[
        (name, config),
        ("x/layer.tar".to_owned(), layer()),
        (
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ),
    ])
}

fn write(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("image.tar");
    fs::write(&path, bytes).expect("writing to it");
    (dir, path)
}

fn refused(bytes: &[u8], words: &str) {
    let (_dir, path) = write(bytes);
    let printed = ImageArchive::open(&path)
        .map(|_| ())
        .map_err(|e| format!("{e:#}"));
    assert!(
        printed
            .as_ref()
            .is_err_and(|e| e.contains(words) && e.contains("image.tar")),
        "expected `{words}`, got {printed:?}"
    );
}

#[test]
fn oci_and_docker_archives_have_the_same_layer() {
    let plain = layer();
    let zstd = zstd::encode_all(plain.as_slice(), 1).expect("in memory");
    let archives = [
        docker(None),
        gzip(&docker(None)),
        oci(&plain, |_| {}),
        oci(&gzip(&plain), |_| {}),
        oci(&zstd, |_| {}),
        // `ctr images export` may write a blob twice.
        oci(&plain, |e| e.push(e[4].clone())),
        zstd::encode_all(oci(&plain, |_| {}).as_slice(), 1).expect("in memory"),
    ];
    for (i, bytes) in archives.iter().enumerate() {
        let (_dir, path) = write(bytes);
        let archive = ImageArchive::open(&path).unwrap_or_else(|e| panic!("archive {i}: {e:#}"));
        let image = &archive.images[0];
        let mut out = Vec::new();
        image.layers[0]
            .copy_to(&mut out)
            .unwrap_or_else(|e| panic!("archive {i}: {e:#}"));
        assert_eq!(out, plain, "archive {i}");
        assert_eq!(
            image.config_digest,
            format!("sha256:{}", sha(&image.config)),
            "archive {i}"
        );
    }
}

#[test]
fn image_keeps_all_names() {
    let (_dir, path) = write(&docker(None));
    let archive = ImageArchive::open(&path).expect("a whole archive");
    assert_eq!(
        archive.images[0].references,
        ["docker.io/library/a:1", "example.org/b:2"]
    );
}

#[test]
fn broken_archive_is_refused_with_its_reason() {
    let whole = docker(None);
    refused(&whole[..whole.len() - 1024], "cut off");
    refused(&whole[..600], "cut off");
    refused(&gzip(&whole)[..200], "cut off");
    refused(
        &docker(Some(&format!("{}.json", "0".repeat(64)))),
        "damaged",
    );
    refused(&tar(&[("hello".to_owned(), vec![])]), "neither");
    refused(b"", "empty");
    refused(&[b'x'; 1000], "not a tar archive");
    refused(&oci(&layer(), |e| e[2].1[5] ^= 1), "damaged");
    refused(&oci(&layer(), |e| drop(e.pop())), "is missing");
    refused(&oci(&layer(), |e| e[4].1.push(0)), "bytes instead of");
}

#[test]
fn layer_with_wrong_digest_is_an_error() {
    let (_dir, path) = write(&oci(&layer(), |entries| entries[4].1[520] ^= 1));
    let archive = ImageArchive::open(&path).expect("descriptions are whole");
    let printed = archive.images[0].layers[0]
        .copy_to(&mut io::sink())
        .map_err(|e| format!("{e:#}"));
    assert!(
        printed.as_ref().is_err_and(|e| e.contains("damaged")),
        "{printed:?}"
    );
}
