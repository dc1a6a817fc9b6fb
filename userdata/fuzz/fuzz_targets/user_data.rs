//! Any bytes as `user-data`: an answer or findings, never a panic; findings print.
#![no_main]

use libfuzzer_sys::fuzz_target;
use userdata::document::{Document, Seed};
use userdata::signature::{self, Files};

fuzz_target!(|bytes: &[u8]| {
    let seed = Seed {
        name: "fuzz",
        user_data: bytes,
        meta_data: b"",
        network_config: None,
    };
    if let Err(findings) = Document::parse(seed) {
        let _ = findings.to_string();
    }
    // firstboot reads the signature first.
    let _ = signature::read(&Files {
        user_data: bytes,
        meta_data: b"",
        network_config: None,
        vendor_data: None,
    });
});
