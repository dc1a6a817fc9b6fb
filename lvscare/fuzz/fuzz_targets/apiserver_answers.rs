//! Any bytes as what an apiserver answers: addresses or an error, never a panic, and a watch takes
//! no memory without end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lvscare::discovery::slice::{Lines, endpoints, event, list};

fuzz_target!(|bytes: &[u8]| {
    let _ = list(bytes);
    let _ = endpoints(bytes);
    let mut lines = Lines::default();
    for part in bytes.chunks(7) {
        if lines.push(part).is_err() {
            return;
        }
        while let Some(line) = lines.take() {
            let _ = event(&line);
        }
    }
});
