//! Any bytes as an offline package: accepted or refused, never a panic.
#![no_main]

use std::fs;

use imagegen::package::Package;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The reader opens a path; memory-backed, because this happens thousands of times a second.
    let path = format!("/dev/shm/firstlight-fuzz-{}.tar", std::process::id());
    if fs::write(&path, bytes).is_ok() {
        let _ = Package::open(path.as_ref());
        let _ = fs::remove_file(&path);
    }
});
