//! Test machines: a root with an image's files and one link.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

pub(crate) mod host;
pub(crate) mod signed;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(path)
}

/// A copy of the image's root, on a machine with one link and a serial number.
pub(crate) fn image_root() -> TempDir {
    let dir = TempDir::new().unwrap();
    copy(&fixture("root"), dir.path());
    let put = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put(
        userdata::contract::LVSCARE_POD.trim_start_matches('/'),
        include_str!("../../../lvscare/deploy/pod.yaml"),
    );
    put("sys/class/net/eth0/address", "52:54:00:00:07:10\n");
    put("sys/class/net/eth0/device/vendor", "0x1af4\n");
    put("sys/class/dmi/id/product_serial", "SN-1\n");
    put(
        "sys/class/dmi/id/product_uuid",
        "00112233-4455-6677-8899-aabbccddeeff\n",
    );
    dir
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Mode, inode and bytes of every path below `root`.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, u64, Vec<u8>)> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                folders.push(path.clone());
            }
            let bytes = if meta.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            found.insert(
                path.strip_prefix(root).unwrap().to_owned(),
                (meta.mode() & 0o7777, meta.ino(), bytes),
            );
        }
    }
    found
}

/// The seed of `alone`, or one like it for another host of its cluster with this role.
pub(crate) fn seed_of(role: &str, name: &str, address: &str) -> TempDir {
    let seed = TempDir::new().unwrap();
    let user_data = fs::read_to_string(fixture("sources/alone/user-data")).unwrap();
    let node = fs::read_to_string(fixture("node.yaml"))
        .unwrap()
        .replace("role: master0", &format!("role: {role}"))
        .replace("name: m0\n", &format!("name: {name}\n"))
        .replace("192.168.7.10/24", &format!("{address}/24"));
    let indented: String = node.lines().map(|line| format!("    {line}\n")).collect();
    let (head, rest) = user_data.split_once("  encoding: b64\n").unwrap();
    let tail = rest.split_once('\n').unwrap().1;
    let user_data = format!("{head}  content: |\n{indented}{tail}")
        .replace("hostname: m0", &format!("hostname: {name}"))
        .replace("m0.prod", &format!("{name}.prod"));
    fs::write(seed.path().join("user-data"), user_data).unwrap();
    fs::write(
        seed.path().join("meta-data"),
        format!("instance-id: {name}\n"),
    )
    .unwrap();
    if role == "master0" {
        let name = "network-config";
        fs::copy(fixture("sources/alone").join(name), seed.path().join(name)).unwrap();
    }
    seed
}
