use std::io::Write as _;

use super::*;
use crate::image::layers::StoredLayer;

/// A file as Go's linker writes it, as far as `go version -m` reads it.
fn program(go: &str, modules: &str) -> Vec<u8> {
    let mut bytes = b"\x7fELF and others:\xff Go buildinf: of no program".to_vec();
    bytes.resize(64, 0);
    bytes.extend_from_slice(b"\xff Go buildinf:\x08\x02");
    bytes.extend_from_slice(&[0; 16]);
    let mut text = |part: &[u8]| {
        let mut length = part.len();
        while length > 0x7f {
            bytes.push(0x80 | (length & 0x7f) as u8);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(part);
    };
    text(go.as_bytes());
    text(format!("0123456789abcdef{modules}0123456789abcdef").as_bytes());
    bytes
}

const MODULES: &str = "path\tk8s.io/kubernetes/cmd/kubelet\n\
     mod\tk8s.io/kubernetes\tv1.37.2\t\n\
     dep\tgithub.com/opencontainers/runc\tv1.3.0+dirty\th1:x\n\
     dep\tk8s.io/api\tv0.0.0\n\
     =>\t./staging/src/k8s.io/api\tv0.37.2\t\n\
     build\t-buildmode=exe\n";

fn read(bytes: &[u8]) -> Option<go::Program> {
    go::read(&mut &bytes[..]).expect("in memory")
}

#[test]
fn modules_of_a_go_program_are_read() {
    let program = program("go1.26.9", MODULES);
    let found = read(&program).expect("a program");
    assert_eq!(found.go, "go1.26.9");
    let modules: Vec<_> = found
        .modules
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    assert_eq!(
        modules,
        [
            "k8s.io/kubernetes v1.37.2",
            "github.com/opencontainers/runc v1.3.0+dirty",
            "./staging/src/k8s.io/api v0.37.2"
        ]
    );
    for cut in 0..program.len() {
        assert_eq!(read(&program[..cut]), None, "{cut}");
    }
    assert_eq!(read(b"#!/bin/sh"), None);
}

#[test]
fn bill_names_every_kind_of_component_once_and_is_reproducible() {
    let mut root = Archive::default();
    root.file("usr/bin/kubelet", 0o755, program("go1.26.9", MODULES));
    root.file("usr/bin/kubeadm", 0o755, program("go1.26.9", MODULES));
    root.file("usr/bin/sh", 0o755, b"\x7fELF".to_vec());
    let status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\n\
         Source: glibc (2.41-1)\nVersion: 2.41-12+deb13u1\nDescription: C library\n more\n\n\
         Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n";
    let mut tar = tar::Builder::new(tempfile::NamedTempFile::new().unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(status.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, "./var/lib/dpkg/status", status.as_bytes())
        .unwrap();
    let mut file = tar.into_inner().unwrap();
    file.flush().unwrap();
    let images = [StoredImage {
        references: vec!["localhost:5000/team/Pause:3.10".to_owned()],
        config: b"{}".to_vec(),
        layers: Vec::<StoredLayer>::new(),
    }];
    let bill = || {
        let sources = Sources {
            packages: vec![Packages::of_tar(file.path()).unwrap()],
            images: &images,
            root: &root,
            root_hash: "abc",
        };
        write(&sources).unwrap()
    };
    let bytes = bill();
    assert_eq!(bytes, bill());
    let bill: Value = serde_json::from_slice(&bytes).unwrap();
    let components = bill["components"].as_array().unwrap();
    let references: Vec<_> = components
        .iter()
        .map(|c| c["bom-ref"].as_str().unwrap())
        .collect();
    for expected in [
        "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64&distro=debian-13&upstream=glibc",
        "file:/usr/bin/kubeadm",
        "file:/usr/bin/kubelet",
        "pkg:golang/github.com/opencontainers/runc@v1.3.0%2Bdirty",
        "pkg:golang/stdlib@1.26.9",
        "pkg:cargo/firstboot@0.1.0",
        "pkg:cargo/lvscare@0.1.0",
    ] {
        let count = references.iter().filter(|one| **one == expected).count();
        assert_eq!(count, 1, "{expected}");
    }
    assert!(
        references
            .iter()
            .any(|one| one.starts_with("pkg:cargo/rustls@0.23"))
    );
    assert!(
        !references
            .iter()
            .any(|one| one.contains("gone") || one.contains("imagegen"))
    );
    let container = components
        .iter()
        .find(|c| c["type"] == "container")
        .unwrap();
    assert_eq!(container["name"], "localhost:5000/team/Pause");
    assert_eq!(container["version"], "3.10");
}
