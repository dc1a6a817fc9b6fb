//! Any descriptions of images, in both layouts of image archives: images or an error, never a
//! panic.
#![no_main]

mod headers;

use std::fs;

use imagegen::package::oci::ImageArchive;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use tar::{Builder, Header};

fn add(archive: &mut Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, name, bytes)
        .expect("in memory");
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An archive that names its parts by their real digests: `@0@` in a part is the digest of the part
/// before it, so that the descriptions are read and not only refused.
fn layout(parts: &[&[u8]], oci: bool) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    let mut before = digest(b"");
    for part in parts {
        let text = String::from_utf8_lossy(part).replace("@0@", &before);
        before = digest(text.as_bytes());
        let name = match oci {
            true => format!("blobs/sha256/{before}"),
            false => format!("{before}.json"),
        };
        add(&mut archive, &name, text.as_bytes());
        add(&mut archive, if oci { "index.json" } else { "manifest.json" }, text.as_bytes());
    }
    if oci {
        add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    }
    archive.into_inner().expect("in memory")
}

fn open(archive: &[u8]) {
    let path = format!("/dev/shm/firstlight-fuzz-image-{}.tar", std::process::id());
    if fs::write(&path, archive).is_ok() {
        if let Ok(archive) = ImageArchive::open(path.as_ref()) {
            for layer in archive.images.iter().flat_map(|image| &image.layers) {
                let _ = layer.copy_to(&mut std::io::sink());
            }
        }
        let _ = fs::remove_file(&path);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 3 {
        // Its headers are the fuzzer's too.
        0 => open(&headers::with_checksums(rest)),
        kind => {
            let parts: Vec<_> = rest.split(|byte| *byte == 0).take(8).collect();
            open(&layout(&parts, kind == 1));
        }
    }
});
