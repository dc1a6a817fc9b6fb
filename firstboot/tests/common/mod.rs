//! Fixtures as machines: a root with an image's files and one link.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

use std::fs;
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
