//! Any bytes as an offline package: accepted or refused, never a panic.
#![no_main]

mod headers;

use std::fs;

use imagegen::package::Package;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The reader opens a path; memory-backed, because this happens thousands of times a second.
    let path = format!("/dev/shm/firstlight-fuzz-{}.tar", std::process::id());
    // Every second input has right checksums, which random changes break.
    let archive = match bytes.len() % 2 {
        0 => bytes.to_vec(),
        _ => headers::with_checksums(bytes),
    };
    if fs::write(&path, archive).is_ok() {
        let _ = Package::open(path.as_ref());
        let _ = fs::remove_file(&path);
    }
});
