//! The modules of a Go program, as `go version -m` shows them: Go's `debug/buildinfo` describes the
//! block that every program of Go 1.18 and later has.

use std::io::{self, Read};

use serde_json::json;

use super::{Components, escaped, library};

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Behind the magic: the size of a pointer and flags. This one: the texts follow the header.
const INLINE: u8 = 2;
const HEADER: usize = 32;
/// Of the block in the file.
const ALIGNMENT: usize = 16;
/// Around the text of the modules, for those who look for it in memory.
const MARK: usize = 16;
/// Far above that of any program: kubelet's modules take 20 KiB.
const MAX_TEXT: usize = 1 << 20;

/// A Go program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// `go1.26.9`.
    pub(super) go: String,
    /// Name and version of the main module, then of the others.
    pub(super) modules: Vec<(String, String)>,
}

/// Reads a file to its end; `None` if it is no Go program with modules.
pub(super) fn read(file: &mut dyn Read) -> io::Result<Option<Program>> {
    let mut start = [0; 4];
    match file.read_exact(&mut start) {
        Ok(()) if start == *b"\x7fELF" => {}
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
        _ => return Ok(None),
    }
    let mut bytes = start.to_vec();
    file.read_to_end(&mut bytes)?;
    let mut blocks = (0..bytes.len())
        .step_by(ALIGNMENT)
        .map(|at| &bytes[at..])
        .filter(|block| block.starts_with(MAGIC));
    Ok(blocks.find_map(parse))
}

/// The block that begins with the magic.
fn parse(block: &[u8]) -> Option<Program> {
    if block.get(MAGIC.len() + 1)? & INLINE == 0 {
        return None;
    }
    let mut rest = block.get(HEADER..)?;
    let go = String::from_utf8(text(&mut rest)?.to_vec()).ok()?;
    let modules = text(&mut rest)?;
    let modules = modules.get(MARK..modules.len().checked_sub(MARK)?)?;
    let modules = std::str::from_utf8(modules).ok()?;
    let mut found: Vec<(String, String)> = Vec::new();
    for line in modules.lines() {
        let mut words = line.split('\t');
        let (kind, name, version) = (words.next()?, words.next(), words.next());
        let (Some(name), Some(version)) = (name, version) else {
            continue;
        };
        let module = (name.to_owned(), version.to_owned());
        match kind {
            "mod" | "dep" => found.push(module),
            // Replaces the one before it.
            "=>" => {
                found.pop();
                found.push(module);
            }
            _ => {}
        }
    }
    (!found.is_empty()).then_some(Program { go, modules: found })
}

/// A text behind its length, which is a number of Go's `encoding/binary`.
fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let (byte, more) = rest.split_first()?;
        *rest = more;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
        if shift > 21 {
            return None;
        }
    }
    let text = rest.get(..length).filter(|text| text.len() <= MAX_TEXT)?;
    *rest = &rest[length..];
    Some(text)
}

impl Program {
    /// Adds the program at `path` of the root, and its modules.
    pub(super) fn add(&self, path: &str, components: &mut Components) {
        let Some((main, modules)) = self.modules.split_first() else {
            return;
        };
        let reference = format!("file:/{path}");
        let component = json!({
            "type": "application",
            "bom-ref": reference,
            "name": main.0,
            "version": main.1,
            "purl": purl(main),
            "properties": [{ "name": "firstlight:path", "value": format!("/{path}") }],
        });
        components.insert(reference, component);
        for module in modules {
            library(&module.0, &module.1, purl(module), components);
        }
        let standard = (
            "stdlib".to_owned(),
            self.go.trim_start_matches("go").to_owned(),
        );
        library(&standard.0, &standard.1, purl(&standard), components);
    }
}

fn purl((name, version): &(String, String)) -> String {
    let name: Vec<String> = name.split('/').map(escaped).collect();
    format!("pkg:golang/{}@{}", name.join("/"), escaped(version))
}
