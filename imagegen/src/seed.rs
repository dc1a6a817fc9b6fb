//! NoCloud seed disks: a small vfat with the label CIDATA and the three files of a document.
//!
//! Equal documents give equal bytes: the volume id is a digest of the files.

use std::io::Cursor;

use anyhow::Result;
use sha2::{Digest as _, Sha256};
use userdata::contract;

use crate::documents::Document;
use crate::image::vfat;

/// The smallest size and the increment, the size of seeds by cloud-localds.
const STEP: usize = 128 * 1024;

/// The bytes of a seed disk with `document`.
pub fn image(document: &Document) -> Result<Vec<u8>> {
    with_files(&document.files())
}

/// The bytes of a seed disk with these files.
pub fn with_files(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut digest = Sha256::new();
    let mut content = 0;
    for (name, bytes) in files {
        digest.update(name);
        digest.update(bytes);
        content += bytes.len();
    }
    let digest = digest.finalize();
    let id = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
    // FATs, root folder and partial clusters need less than an eighth and 16 KiB.
    let size = (content + content / 8 + 16 * 1024).next_multiple_of(STEP);
    let mut disk = Cursor::new(vec![0; size]);
    vfat::write(&mut disk, size as u64, contract::SEED_LABEL, id, files)?;
    Ok(disk.into_inner())
}
