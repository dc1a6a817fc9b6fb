//! Undoes what user-data is packed in: gzip, templates, MIME archives and cloud-config archives.
//! What is left are cloud-configs and scripts.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::GzDecoder;

use super::archive;
use super::template::{self, Variables};
use yaml::{Diagnostic, Diagnostics, Severity};

/// What user-data may unpack to. A document of a large cluster is some hundreds of KiB.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// Archives in archives.
const MAX_DEPTH: usize = 4;

const ONE: &str = "send one `#cloud-config`";

/// Formats of cloud-init and its neighbours that are recognised only to be refused by name.
const REFUSED: &[(&str, &str, &str)] = &[
    ("#cloud-config-jsonp", "a cloud-config JSON patch", ONE),
    (
        "#cloud-boothook",
        "a boothook",
        "write the commands under `bootcmd` of a `#cloud-config`",
    ),
    ("#part-handler", "a part handler", ONE),
    (
        "#include",
        "a list of URLs (`#include`)",
        "send the `#cloud-config` itself",
    ),
];

/// What user-data holds, in its order.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) configs: Vec<Part>,
    pub(super) scripts: Vec<String>,
    pub(super) notices: Vec<Diagnostic>,
    /// Bytes so far.
    size: u64,
}

/// A cloud-config, and how it merges with those before it.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) text: String,
    /// Of the MIME header `Merge-Type`.
    pub(super) merge: Option<String>,
}

/// Unpacks user-data. Empty user-data has no part.
pub(super) fn parts(name: &str, bytes: &[u8], variables: &Variables) -> Result<Parts, Diagnostics> {
    let mut parts = Parts::default();
    let mut reader = Unpacker {
        variables,
        parts: &mut parts,
    };
    reader.add(name, bytes, None, 0)?;
    Ok(parts)
}

/// Adds what it finds to the parts.
pub(super) struct Unpacker<'a> {
    variables: &'a Variables,
    pub(super) parts: &'a mut Parts,
}

impl Unpacker<'_> {
    /// `merge`: the header of a part. `depth`: the archives around it.
    pub(super) fn add(
        &mut self,
        name: &str,
        bytes: &[u8],
        merge: Option<&str>,
        depth: usize,
    ) -> Result<(), Diagnostics> {
        let refuse = |message: String| Diagnostic::new(Severity::Error, name, message);
        // `user-data`, or `vendor-data`.
        let file = name.rsplit('/').next().unwrap_or(name);
        if depth > MAX_DEPTH {
            return Err(refuse(format!("archives are nested deeper than {MAX_DEPTH}")).into());
        }
        let bytes = unpacked(bytes).map_err(refuse)?;
        self.parts.size += bytes.len() as u64;
        if self.parts.size > MAX_BYTES {
            return Err(refuse(format!("unpacks to more than {MAX_BYTES} bytes")).into());
        }
        if archive::is_mime(&bytes) {
            return archive::mime(self, name, &bytes, depth);
        }
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return Err(refuse(format!("{file} is neither text in UTF-8 nor gzip")).into());
        };
        let text = text.trim_start_matches('\u{feff}');
        if text.trim().is_empty() {
            return Ok(());
        }
        if template::is_template(text) {
            let rendered = template::render(name, text, self.variables)?;
            return self.add_text(
                name,
                &rendered,
                template::without_header(&rendered),
                merge,
                depth,
            );
        }
        self.add_text(name, text, text, merge, depth)
    }

    /// `start` is `text` from the line that says what it is.
    fn add_text(
        &mut self,
        name: &str,
        text: &str,
        start: &str,
        merge: Option<&str>,
        depth: usize,
    ) -> Result<(), Diagnostics> {
        let refuse = |message: String| Diagnostic::new(Severity::Error, name, message);
        let file = name.rsplit('/').next().unwrap_or(name);
        let first = start.lines().next().unwrap_or("").trim_end();
        if first == "#cloud-config" {
            self.parts.configs.push(Part {
                name: name.to_owned(),
                text: text.to_owned(),
                merge: merge.map(str::to_owned),
            });
            return Ok(());
        }
        if first == "#cloud-config-archive" {
            return archive::list(self, name, text, depth);
        }
        if start.starts_with("#!") {
            self.parts.scripts.push(start.to_owned());
            return Ok(());
        }
        for (prefix, what, advice) in REFUSED {
            if start.starts_with(prefix) {
                let refused = refuse(format!("{file} is {what}"));
                return Err(refused.with_help(*advice).into());
            }
        }
        if start.trim_start().starts_with('{') && start.contains("\"ignition\"") {
            return Err(refuse(format!("{file} is an Ignition configuration"))
                .with_help("Ignition is not supported: send a `#cloud-config`")
                .into());
        }
        let help = if first
            .trim_start_matches(['#', ' '])
            .starts_with("cloud-config")
        {
            "the first line must be exactly `#cloud-config`"
        } else {
            "a cloud-config starts with the line `#cloud-config`"
        };
        Err(refuse(format!("{file} is of no known kind"))
            .with_help(help)
            .into())
    }
}

/// Undoes gzip, which may be applied more than once.
pub fn unpacked(bytes: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let mut bytes = Cow::Borrowed(bytes);
    // Some clients pack what their library packs again.
    for _ in 0..3 {
        if !bytes.starts_with(&[0x1f, 0x8b]) {
            break;
        }
        bytes = Cow::Owned(gunzip(&bytes, MAX_BYTES)?);
    }
    Ok(bytes)
}

/// Undoes gzip, up to `limit` bytes.
pub(super) fn gunzip(bytes: &[u8], limit: u64) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let read = GzDecoder::new(bytes).take(limit + 1).read_to_end(&mut out);
    match read {
        Err(error) => Err(format!("the gzip data is broken: {error}")),
        Ok(_) if out.len() as u64 > limit => {
            Err(format!("the gzip data unpacks to more than {limit} bytes"))
        }
        Ok(_) => Ok(out),
    }
}
