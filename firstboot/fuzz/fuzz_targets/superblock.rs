//! Any bytes as a block device: its file system and label, or none, never a panic.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // An ISO 9660 volume descriptor starts at 32 KiB: zeros before it let short inputs reach it.
    let mut iso = vec![0; 16 * 2048];
    iso.extend_from_slice(bytes);
    let _ = firstboot::source::superblock::probe(&mut Cursor::new(bytes));
    let _ = firstboot::source::superblock::probe(&mut Cursor::new(iso));
});
