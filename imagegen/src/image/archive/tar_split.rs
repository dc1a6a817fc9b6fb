//! What docker keeps of a layer's tar beside its files, so that `docker save` gives the same bytes
//! again: headers and padding as they are, and name and checksum of each file's contents.
//!
//! The format is that of tar-split (github.com/vbatts/tar-split, `tar/storage`): JSON lines, packed
//! by gzip. docker itself splits headers and padding into more lines, which makes no difference.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc::{CRC_64_GO_ISO, Crc, Table};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::reader::Reader;

const CHECKSUM: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);

/// `type` of a line.
const FILE: u8 = 1;
const SEGMENT: u8 = 2;

#[derive(Serialize)]
struct Line<'a> {
    r#type: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    payload: Option<String>,
    position: usize,
}

/// The contents of `tar-split.json.gz` of an uncompressed tar file. `None` if a path is in it
/// twice: the first file's contents are gone once the tar is unpacked, and docker refuses it too.
pub fn tar_split(file: &Arc<File>) -> Result<Option<Vec<u8>>> {
    let length = file.metadata().context("reading a tar archive")?.len();
    let mut reader = Reader::new(file)?;
    let mut out = Lines {
        file,
        packer: GzEncoder::new(Vec::new(), Compression::default()),
        position: 0,
    };
    let mut seen = BTreeSet::new();
    let mut end = 0;
    while let Some(entry) = reader.next_entry().context("reading a tar archive")? {
        let name = std::str::from_utf8(&entry.path).context("a path is not UTF-8")?;
        let parts = name.split('/').filter(|part| !matches!(*part, "" | "."));
        if !seen.insert(parts.collect::<Vec<_>>().join("/")) {
            return Ok(None);
        }
        out.segment(end, entry.offset)?;
        end = entry.offset + entry.size;
        let has_contents = entry.size > 0;
        let payload = has_contents
            .then(|| out.checksum(entry.offset, end))
            .transpose()?;
        out.line(
            FILE,
            Some(name),
            has_contents.then_some(entry.size),
            payload,
        )?;
    }
    out.segment(end, length)?;
    Ok(Some(out.packer.finish().context("packing in memory")?))
}

struct Lines<'a> {
    file: &'a File,
    packer: GzEncoder<Vec<u8>>,
    position: usize,
}

impl Lines<'_> {
    /// The bytes of the tar from `start` to `end`.
    fn segment(&mut self, start: u64, end: u64) -> Result<()> {
        ensure!(start <= end, "an entry begins before the end of the last");
        let mut bytes = vec![0; usize::try_from(end - start)?];
        self.file
            .read_exact_at(&mut bytes, start)
            .context("reading a tar archive")?;
        self.line(SEGMENT, None, None, Some(STANDARD.encode(bytes)))
    }

    fn checksum(&self, mut start: u64, end: u64) -> Result<String> {
        let mut sum = CHECKSUM.digest();
        let mut buffer = vec![0; 1 << 20];
        while start < end {
            let part = usize::try_from((end - start).min(1 << 20))?;
            self.file
                .read_exact_at(&mut buffer[..part], start)
                .context("reading a tar archive")?;
            sum.update(&buffer[..part]);
            start += part as u64;
        }
        Ok(STANDARD.encode(sum.finalize().to_be_bytes()))
    }

    fn line(
        &mut self,
        r#type: u8,
        name: Option<&str>,
        size: Option<u64>,
        payload: Option<String>,
    ) -> Result<()> {
        let line = Line {
            r#type,
            name,
            size,
            payload,
            position: self.position,
        };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        self.position += 1;
        self.packer.write_all(&text).context("packing in memory")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// A tar of `(name, contents)`.
    fn tar(files: &[(&str, &str)]) -> Result<(Arc<File>, Vec<u8>)> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, contents) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            builder.append_data(&mut header, name, contents.as_bytes())?;
        }
        let bytes = builder.into_inner()?;
        let mut file = tempfile::tempfile()?;
        file.write_all(&bytes)?;
        Ok((Arc::new(file), bytes))
    }

    /// As docker does it: segments as they are, files by name.
    #[test]
    fn lines_and_files_give_the_same_tar_again() -> Result<()> {
        let long = "long/".repeat(40) + "name";
        let files = [("a", "one"), ("empty", ""), (&long, "two")];
        let (file, bytes) = tar(&files)?;
        let packed = tar_split(&file)?.context("no path is twice in it")?;
        let mut text = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text)?;
        let mut again = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line: serde_json::Value = serde_json::from_str(line)?;
            assert_eq!(line["position"], number);
            let payload = line["payload"].as_str().map(|text| STANDARD.decode(text));
            let payload = payload.transpose()?;
            match line["type"].as_u64() {
                Some(2) => again.extend(payload.context("a segment has bytes")?),
                Some(1) => {
                    let name = line["name"].as_str().context("a file has a name")?;
                    let found = files.iter().find(|(known, _)| *known == name);
                    let (_, contents) = found.with_context(|| format!("no file {name}"))?;
                    again.extend(contents.as_bytes());
                    assert_eq!(payload.is_none(), contents.is_empty(), "{name}");
                }
                other => panic!("type {other:?}"),
            }
        }
        assert_eq!(again, bytes);
        Ok(())
    }

    /// Go's `crc64.Checksum([]byte("123456789"), crc64.MakeTable(crc64.ISO))`.
    #[test]
    fn checksum_is_that_of_go() {
        assert_eq!(CHECKSUM.checksum(b"123456789"), 0xb909_56c7_75a4_1001);
    }

    #[test]
    fn path_that_is_twice_in_a_tar_has_no_lines() -> Result<()> {
        let (file, _) = tar(&[("a", "one"), ("./a", "two")])?;
        assert!(tar_split(&file)?.is_none());
        Ok(())
    }
}
