//! Any bytes as a request to the status port, and as the certificate of its client.
#![no_main]

use firstboot::status::server::{head, reader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(head) = head(&mut &bytes[..]) {
        assert!(head.len() <= 8192);
    }
    if let Ok(Some(refused)) = reader(bytes) {
        assert!(refused.contains("system:masters"));
    }
});
