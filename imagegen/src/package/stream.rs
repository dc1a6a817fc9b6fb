//! Opens archives: detects the compression by content, and reports a truncated archive.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use flate2::bufread::MultiGzDecoder;

const BLOCK: u64 = 512;

/// The bytes of an archive, decompressed.
pub(super) type Bytes = Box<dyn Read + Send>;

/// Compressions by their first bytes. An error names those without a reader.
const MAGIC: [(&[u8], &str); 6] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0x1f, 0x8b], "gzip"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (b"BZh", "bzip2"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
    (b"PK\x03\x04", "zip"),
];

/// Opens a file that holds a tar archive: plain, gzip or zstd.
pub(super) fn open(path: &Path) -> Result<Bytes> {
    let file = File::open(path).with_context(|| format!("opening `{}`", path.display()))?;
    decompress(BufReader::with_capacity(1 << 18, file))
        .with_context(|| format!("reading `{}`", path.display()))
}

/// Removes the compression of a tar archive.
pub(super) fn decompress(mut input: BufReader<impl Read + Send + 'static>) -> Result<Bytes> {
    let start = input.fill_buf().context("reading its first bytes")?;
    ensure!(!start.is_empty(), "it is empty");
    let kind = MAGIC
        .iter()
        .find(|(magic, _)| start.starts_with(magic))
        .map(|(_, name)| *name);
    match kind {
        Some("zstd") => {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            // For `zstd --long=31`; the default limit of a window is 128 MiB.
            decoder.window_log_max(31)?;
            Ok(Box::new(decoder))
        }
        Some("gzip") => Ok(Box::new(MultiGzDecoder::new(input))),
        Some(other) => {
            bail!("it is compressed with {other}; give a folder, .tar, .tar.gz or .tar.zst")
        }
        None if looks_like_tar(start) => Ok(Box::new(input)),
        None => bail!(
            "it is not a tar archive or has an unknown compression; give a folder, .tar, .tar.gz \
             or .tar.zst"
        ),
    }
}

/// Checks the checksum of a tar header, which even formats without a magic have.
fn looks_like_tar(start: &[u8]) -> bool {
    let Some(header) = start.get(..BLOCK as usize) else {
        return false;
    };
    if header.iter().all(|&b| b == 0) {
        return true; // an empty archive
    }
    let mut parsed = tar::Header::new_old();
    parsed.as_mut_bytes().copy_from_slice(header);
    let sum: u32 = header
        .iter()
        .enumerate()
        .map(|(i, &b)| u32::from(if (148..156).contains(&i) { b' ' } else { b }))
        .sum();
    parsed.cksum().is_ok_and(|expected| expected == sum)
}

/// Calls `each` for every entry, then checks the end of the archive: the two empty blocks of tar,
/// without which an archive cut between two entries is valid, and the checksum of the compression.
pub(super) fn entries(
    bytes: impl Read,
    mut each: impl FnMut(&mut tar::Entry<'_, Watched<'_>>) -> Result<()>,
) -> Result<()> {
    let watch = Watch::default();
    let mut archive = tar::Archive::new(Watched {
        inner: Box::new(bytes),
        watch: &watch,
    });
    let mut end = 0;
    for entry in archive.entries()? {
        let mut entry = entry.map_err(explained)?;
        each(&mut entry)?;
        // Reads what `each` left, to detect a cut in it.
        io::copy(&mut entry, &mut io::sink()).map_err(explained)?;
        end = (entry.raw_file_position() + entry.header().entry_size()?).next_multiple_of(BLOCK);
    }
    ensure!(
        watch.position.get() >= end + BLOCK && watch.last_is_zero.get(),
        "it is cut off: the end of the archive is missing; copy it again"
    );
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(explained)?;
    Ok(())
}

/// Unifies the messages of several crates for a truncated archive.
pub(super) fn explained(error: io::Error) -> anyhow::Error {
    let text = error.to_string();
    let cut = error.kind() == io::ErrorKind::UnexpectedEof
        || [
            "unexpected EOF",
            "incomplete frame",
            "failed to read entire block",
        ]
        .iter()
        .any(|t| text.contains(t));
    if cut {
        anyhow::anyhow!("it is cut off ({text}); copy it again")
    } else {
        anyhow::Error::new(error).context("it is damaged")
    }
}

#[derive(Default)]
struct Watch {
    position: std::cell::Cell<u64>,
    last_is_zero: std::cell::Cell<bool>,
}

/// A reader that records its position and whether the last bytes were zero.
pub(super) struct Watched<'a> {
    inner: Box<dyn Read + 'a>,
    watch: &'a Watch,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if n > 0 {
            self.watch
                .position
                .set(self.watch.position.get() + n as u64);
            self.watch
                .last_is_zero
                .set(buffer[..n].iter().all(|&b| b == 0));
        }
        Ok(n)
    }
}
