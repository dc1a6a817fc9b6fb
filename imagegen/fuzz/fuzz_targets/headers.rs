//! Tar archives from any bytes: a wrong checksum would end the reading at once.

const BLOCK: usize = 512;

/// `bytes` with a right checksum in every header, where its size says the headers are, and with the
/// end of an archive.
pub fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut archive = bytes.to_vec();
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    let mut at = 0_usize;
    while let Some(block) = archive.get_mut(at..at.saturating_add(BLOCK)) {
        if block.iter().all(|byte| *byte == 0) {
            break;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = tar::Header::from_byte_slice(block).entry_size();
        let size = usize::try_from(size.unwrap_or(0)).unwrap_or(usize::MAX);
        let contents = size.checked_next_multiple_of(BLOCK).unwrap_or(usize::MAX);
        at = at.saturating_add(BLOCK).saturating_add(contents);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}
