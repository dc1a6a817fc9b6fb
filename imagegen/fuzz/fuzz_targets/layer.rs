//! Any bytes as the tar archive of a layer: unpacked as containerd does it or refused, never a
//! panic. What is unpacked can be written, and has no device of the hardware.
#![no_main]

mod headers;

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use imagegen::image::archive::{Archive, Content, Placed};
use libfuzzer_sys::fuzz_target;

/// As the module `containerd` places entries.
fn place(path: &str) -> Option<Placed> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = format!("f/{parent}");
    let parent = parent.trim_end_matches('/');
    Some(match name.strip_prefix(".wh.") {
        Some(".wh..opq") => Placed::Opaque(parent.to_owned()),
        Some(hidden) => Placed::Whiteout(format!("{parent}/{hidden}")),
        None => Placed::At(format!("f/{path}")),
    })
}

/// In memory, because this happens thousands of times a second.
fn file(bytes: &[u8]) -> std::io::Result<File> {
    let mut file = tempfile::tempfile_in("/dev/shm")?;
    file.write_all(bytes)?;
    Ok(file)
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = file(&headers::with_checksums(bytes)) else {
        return;
    };
    let mut archive = Archive::default();
    archive.directory("f", 0o755);
    let unpacked = archive
        .add_tar(&Arc::new(file), place)
        .and_then(|()| archive.drop_devices("f"));
    if let Err(error) = unpacked {
        assert!(!format!("{error:#}").contains(char::is_control));
        return;
    }
    for (path, entry) in archive.iter() {
        assert!(path == "f" || path.starts_with("f/"), "{path:?}");
        assert!(!path.split('/').any(|part| part == ".."), "{path:?}");
        assert!(!matches!(entry.content, Content::BlockDevice(..)), "{path:?}");
    }
    archive.write(std::io::sink()).expect("writing what was unpacked");
});
