//! What a file of a package is, by its content: seen in the one pass that also computes its digest.
//!
//! An archive inside the package is read entry by entry. Only the descriptions of its images stay
//! in memory, and only until the archive ends.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Chain, Cursor, Read};

use anyhow::{Context as _, Result, ensure};
use tar::EntryType;

use super::elf::Elf;
use super::oci::describe::{self, Described, Entries};
use super::{listing, stream};

/// The size limit of one description, and of all descriptions of one archive.
const DESCRIPTION: u64 = 8 << 20;
const DESCRIPTIONS: u64 = 64 << 20;
/// The limit for names of one archive: a runtime has some fifty, an image archive some hundreds.
const ENTRIES: usize = 50_000;

/// What a file is.
#[derive(Debug, Clone)]
pub(crate) enum Contents {
    Program(Elf),
    /// Its first line.
    Script(String),
    Archive(Inside),
    /// It begins as an archive and cannot be read to its end.
    Broken(String),
    /// A page of a web server, where a download failed.
    Html,
    Empty,
    Other,
}

/// What an archive holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inside {
    pub(crate) entries: Vec<InnerEntry>,
    /// The images if the archive is an image archive, or why they cannot be read.
    pub(crate) images: Option<Result<Vec<Described>, String>>,
}

#[derive(Debug, Clone)]
pub(crate) struct InnerEntry {
    pub(crate) name: String,
    /// `None` for a link, a text, or any other file.
    pub(crate) elf: Option<Elf>,
    pub(crate) link: bool,
}

/// Reads `data` as far as the answer needs.
pub(super) fn probe(data: &mut dyn Read) -> io::Result<Contents> {
    let mut whole = peek(data)?;
    let start = whole.get_ref().0.get_ref().as_slice();
    if start.is_empty() {
        return Ok(Contents::Empty);
    }
    if let Some(elf) = Elf::read(start) {
        return Ok(Contents::Program(elf));
    }
    if start.starts_with(b"#!") {
        let line = start.split(|&byte| byte == b'\n').next();
        let line = String::from_utf8_lossy(line.unwrap_or_default());
        return Ok(Contents::Script(line.into_owned()));
    }
    if is_html(start) {
        return Ok(Contents::Html);
    }
    if !stream::is_archive(start) {
        return Ok(Contents::Other);
    }
    Ok(
        match inside(BufReader::with_capacity(
            1 << 16,
            &mut whole as &mut dyn Read,
        )) {
            Ok(Some(inside)) => Contents::Archive(inside),
            Ok(None) => Contents::Other,
            Err(error) => Contents::Broken(format!("{error:#}")),
        },
    )
}

/// A tar header's length of first bytes, and all bytes. A decoder may return fewer bytes than that
/// in one read, which says nothing about the file.
fn peek<R: Read>(mut data: R) -> io::Result<Chain<Cursor<Vec<u8>>, R>> {
    let mut start = Vec::new();
    data.by_ref().take(512).read_to_end(&mut start)?;
    Ok(Cursor::new(start).chain(data))
}

fn is_html(start: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&start[..start.len().min(256)]).to_lowercase();
    let text = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    ["<html", "<!doctype html", "<head", "<body", "<?xml"]
        .iter()
        .any(|tag| text.starts_with(tag))
}

/// `None` if a compressed file is no tar archive, such as a compressed text.
fn inside(input: BufReader<&mut dyn Read>) -> Result<Option<Inside>> {
    let plain = peek(stream::decompress_part(input)?).map_err(stream::explained)?;
    if !stream::is_tar(plain.get_ref().0.get_ref()) {
        return Ok(None);
    }
    let mut found = Inside::default();
    let mut seen = Seen::default();
    stream::entries(plain, |entry| {
        let name = listing::clean(
            std::str::from_utf8(&entry.path_bytes()).context("an entry's name is not UTF-8")?,
        )?;
        let kind = entry.header().entry_type();
        let link = matches!(kind, EntryType::Symlink | EntryType::Link);
        let file = super::scan::is_file(kind);
        let mut elf = None;
        if file {
            let size = entry.size();
            let mut start = Vec::new();
            entry
                .take(64)
                .read_to_end(&mut start)
                .map_err(stream::explained)?;
            elf = Elf::read(&start);
            let mut bytes = None;
            if start.starts_with(b"{") || start.starts_with(b"[") {
                bytes = seen.keep(start, entry).map_err(stream::explained)?;
            }
            seen.entries.insert(name.clone(), Stored { size, bytes });
        } else if link {
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = String::from_utf8_lossy(&target).into_owned();
            seen.links
                .push((name.clone(), target, kind == EntryType::Symlink));
        }
        if file || link {
            ensure!(
                found.entries.len() < ENTRIES,
                "it has more than {ENTRIES} entries"
            );
            found.entries.push(InnerEntry { name, elf, link });
        }
        Ok(())
    })?;
    seen.follow_links();
    if seen.entries.contains_key("index.json") || seen.entries.contains_key("manifest.json") {
        found.images = Some(describe::images(&seen).map_err(|error| format!("{error:#}")));
    }
    Ok(Some(found))
}

struct Stored {
    size: u64,
    bytes: Option<Vec<u8>>,
}

/// The entries of one archive.
#[derive(Default)]
struct Seen {
    entries: BTreeMap<String, Stored>,
    links: Vec<(String, String, bool)>,
    kept: u64,
}

impl Seen {
    /// The whole of a description that begins with `start`.
    fn keep(&mut self, start: Vec<u8>, rest: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = start;
        rest.take(DESCRIPTION).read_to_end(&mut bytes)?;
        let size = bytes.len() as u64;
        if size > DESCRIPTION || self.kept + size > DESCRIPTIONS {
            return Ok(None);
        }
        self.kept += size;
        Ok(Some(bytes))
    }

    /// docker before 25 writes a shared layer once, and links to it.
    fn follow_links(&mut self) {
        for (name, target, symbolic) in std::mem::take(&mut self.links) {
            let target = if symbolic {
                super::oci::index::beside(&name, &target)
            } else {
                Some(target)
            };
            if let Some(size) = target.and_then(|t| self.entries.get(&t).map(|stored| stored.size))
            {
                self.entries.insert(name, Stored { size, bytes: None });
            }
        }
    }
}

impl Entries for Seen {
    fn size(&self, name: &str) -> Option<u64> {
        self.entries.get(name).map(|stored| stored.size)
    }

    fn description(&self, name: &str) -> Result<Vec<u8>> {
        let stored = self
            .entries
            .get(name)
            .with_context(|| format!("it has no `{name}`"))?;
        stored.bytes.clone().with_context(|| {
            format!(
                "`{name}` is no JSON, or has {} bytes, more than a description may have",
                stored.size
            )
        })
    }
}
