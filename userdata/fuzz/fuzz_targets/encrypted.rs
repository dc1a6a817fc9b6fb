//! Any bytes as an encrypted `user-data`, in letters and binary: an answer or an error, never a
//! panic.
#![no_main]

use age_file::{BEGIN, Sealed, WORK_FACTOR};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let letters = [BEGIN.as_bytes(), b"\n", bytes].concat();
    let binary = [b"age-encryption.org/v1\n-> scrypt ", bytes].concat();
    for file in [bytes, &letters, &binary] {
        // Trying a passphrase takes milliseconds, which no fuzzer needs: the reader is what it judges.
        let _ = Sealed::read(file, WORK_FACTOR);
    }
});
