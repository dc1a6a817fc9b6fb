//! Opens archives: detects the compression by content, and reports a truncated archive.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use flate2::bufread::MultiGzDecoder;

use super::framing::Framing;

const BLOCK: u64 = 512;

/// The bytes of an archive, decompressed.
pub(super) type Bytes = Box<dyn Read + Send>;
/// The bytes of an archive inside another.
pub(super) type Part<'a> = Box<dyn Read + 'a>;

/// The memory of a zstd window is 2 to this power: 128 MiB. Only `zstd --long` needs more.
const WINDOW: u32 = 27;
/// `xz -9` needs 65 MiB to decompress.
const XZ_MEMORY: u64 = 1 << 30;

/// Compressions by their first bytes. An error names those without a reader.
const MAGIC: [(&[u8], &str); 6] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0x1f, 0x8b], "gzip"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (b"BZh", "bzip2"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
    (b"PK\x03\x04", "zip"),
];

/// Opens a file that holds a tar archive: plain, gzip, zstd or xz.
pub(super) fn open(path: &Path) -> Result<Bytes> {
    let file = File::open(path).with_context(|| format!("opening `{}`", path.display()))?;
    decompress(BufReader::with_capacity(1 << 18, file))
        .with_context(|| format!("reading `{}`", path.display()))
}

/// Space that unpacking leaves free.
const SPARE: u64 = 64 << 20;

/// Writes the tar archive `path` without its compression to an unnamed file in `work`. It may be a
/// thousand times as large as the archive; it fills the disk up to [`SPARE`] bytes.
pub(crate) fn unpacked(path: &Path, work: &Path) -> Result<File> {
    let mut out = tempfile::tempfile_in(work).context("creating a temporary file")?;
    let disk = nix::sys::statvfs::statvfs(work)
        .with_context(|| format!("reading the free space of `{}`", work.display()))?;
    let free = disk.blocks_available() * disk.fragment_size();
    let limit = free.saturating_sub(SPARE);
    let copied = io::copy(&mut open(path)?.take(limit.saturating_add(1)), &mut out);
    ensure!(
        copied.map_err(explained)? <= limit,
        "`{}` has more than {} MiB without its compression, and `{}` has {} MiB free",
        path.display(),
        limit >> 20,
        work.display(),
        free >> 20
    );
    Ok(out)
}

/// Removes the compression of a tar archive.
pub(super) fn decompress(input: BufReader<impl Read + Send + 'static>) -> Result<Bytes> {
    Ok(Box::new(Decoder::new(input)?))
}

/// The same for a reader that lives shorter than the program.
pub(super) fn decompress_part<'a>(input: BufReader<&'a mut dyn Read>) -> Result<Part<'a>> {
    Ok(Box::new(Decoder::new(input)?))
}

enum Decoder<R: io::BufRead> {
    Zstd(zstd::Decoder<'static, R>),
    Gzip(MultiGzDecoder<R>),
    Xz(liblzma::bufread::XzDecoder<R>),
    None(R),
}

impl<R: io::BufRead> Decoder<R> {
    fn new(mut input: R) -> Result<Self> {
        let start = input.fill_buf().context("reading its first bytes")?;
        Ok(match compression(start)? {
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(input)?;
                decoder.window_log_max(WINDOW)?;
                Self::Zstd(decoder)
            }
            Compression::Gzip => Self::Gzip(MultiGzDecoder::new(input)),
            Compression::Xz => Self::Xz(xz(input)?),
            Compression::None => Self::None(input),
        })
    }
}

impl<R: io::BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Xz(decoder) => decoder.read(buffer),
            Self::None(input) => input.read(buffer),
        }
    }
}

/// Several streams in one file are one text, as the program xz reads them.
fn xz<R: io::BufRead>(input: R) -> Result<liblzma::bufread::XzDecoder<R>> {
    let stream =
        liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
    Ok(liblzma::bufread::XzDecoder::new_stream(input, stream))
}

/// Whether `start`, the first bytes of a file, are those of a tar archive, compressed or not.
pub(super) fn is_archive(start: &[u8]) -> bool {
    !start.is_empty() && compression(start).is_ok()
}

/// Whether `start` is the first block of an uncompressed tar archive.
pub(super) fn is_tar(start: &[u8]) -> bool {
    looks_like_tar(start)
}

enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

fn compression(start: &[u8]) -> Result<Compression> {
    ensure!(!start.is_empty(), "it is empty");
    let kind = MAGIC
        .iter()
        .find(|(magic, _)| start.starts_with(magic))
        .map(|(_, name)| *name);
    Ok(match kind {
        Some("zstd") => Compression::Zstd,
        Some("gzip") => Compression::Gzip,
        Some("xz") => Compression::Xz,
        Some(other) => bail!(
            "it is compressed with {other}; give a folder, .tar, .tar.gz, .tar.zst or .tar.xz"
        ),
        None if looks_like_tar(start) => Compression::None,
        None => bail!(
            "it is not a tar archive or has an unknown compression; give a folder, .tar, .tar.gz, \
             .tar.zst or .tar.xz"
        ),
    })
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

/// An entry of an archive that [`entries`] reads.
pub(super) type Entry<'a, 'b> = tar::Entry<'a, Framing<Part<'b>>>;

/// Calls `each` for every entry, then checks the end of the archive: the empty blocks of tar,
/// without which an archive cut between two entries is valid, and the checksum of the compression.
pub(super) fn entries<'b>(
    bytes: impl Read + 'b,
    mut each: impl FnMut(&mut Entry<'_, 'b>) -> Result<()>,
) -> Result<()> {
    let part: Part<'b> = Box::new(bytes);
    let mut archive = tar::Archive::new(Framing::new(part));
    for entry in archive.entries()? {
        let mut entry = entry.map_err(explained)?;
        each(&mut entry)?;
        // Reads what `each` left, to detect a cut in it.
        io::copy(&mut entry, &mut io::sink()).map_err(explained)?;
    }
    let mut rest = archive.into_inner();
    ensure!(
        rest.ended(),
        "it is cut off: the end of the archive is missing; copy it again"
    );
    let mut buffer = vec![0; 1 << 16];
    loop {
        match rest.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => ensure!(
                buffer[..n].iter().all(|&byte| byte == 0),
                "data follows the end of the archive, perhaps a second archive (`cat a.tar \
                 b.tar`); give each archive its own file"
            ),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(explained(e)),
        }
    }
}

/// Unifies the messages of several crates for a truncated archive.
pub(super) fn explained(error: io::Error) -> anyhow::Error {
    let text = error.to_string();
    if text.contains("requires too much memory") {
        return anyhow::anyhow!(
            "its zstd window is larger than {} MiB; compress it without `--long`",
            (1 << WINDOW) >> 20
        );
    }
    let cut = error.kind() == io::ErrorKind::UnexpectedEof
        || [
            "unexpected EOF",
            "incomplete frame",
            "failed to read entire block",
            "premature eof",
        ]
        .iter()
        .any(|t| text.contains(t));
    if cut {
        anyhow::anyhow!("it is cut off ({text}); copy it again")
    } else {
        // The crates quote names and fields with their control characters.
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        anyhow::anyhow!("it is damaged: {text}")
    }
}
