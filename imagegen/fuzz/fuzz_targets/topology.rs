//! Any text as a topology: a plan or findings, never a panic; findings print.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(findings) = imagegen::topology::check::read("cluster.yaml", text) {
        let _ = findings.to_string();
    }
});
