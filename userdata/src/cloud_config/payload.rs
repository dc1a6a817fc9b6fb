//! Detects the type of user-data: only `#cloud-config`, optionally gzipped, is supported.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::GzDecoder;

use yaml::{Diagnostic, Diagnostics, Severity};

/// What user-data may unpack to. A document of a large cluster is some hundreds of KiB.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// Formats of cloud-init and its neighbours that are recognised only to be refused by name.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "## template: jinja",
        "a Jinja template (`## template: jinja`)",
        "templates are not supported yet: send the rendered `#cloud-config`",
    ),
    (
        "#cloud-config-archive",
        "a cloud-config archive",
        "send one `#cloud-config`",
    ),
    (
        "#cloud-config-jsonp",
        "a cloud-config JSON patch",
        "send one `#cloud-config`",
    ),
    (
        "#cloud-boothook",
        "a boothook",
        "write the commands under `bootcmd` of a `#cloud-config`",
    ),
    (
        "#part-handler",
        "a part handler",
        "send one `#cloud-config`",
    ),
    (
        "#include",
        "a list of URLs (`#include`)",
        "send the `#cloud-config` itself",
    ),
    (
        "#!",
        "a script (`#!`)",
        "write the commands under `runcmd` of a `#cloud-config`",
    ),
];

/// The text of a cloud-config; empty for empty user-data.
pub(super) fn cloud_config<'a>(name: &str, bytes: &'a [u8]) -> Result<Cow<'a, str>, Diagnostics> {
    let refuse = |message: String| Diagnostic::new(Severity::Error, name, message);
    // `user-data`, or `vendor-data`.
    let file = name.rsplit('/').next().unwrap_or(name);
    let bytes = unpacked(bytes).map_err(refuse)?;
    let text = match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).ok(),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).ok(),
    };
    let Some(text) = text else {
        return Err(refuse(format!("{file} is neither text in UTF-8 nor gzip")).into());
    };
    let start = text.trim_start_matches('\u{feff}');
    if start.trim().is_empty() {
        return Ok(Cow::Borrowed(""));
    }
    for (prefix, what, advice) in REFUSED {
        if start.starts_with(prefix) {
            return Err(refuse(format!("{file} is {what}"))
                .with_help(*advice)
                .into());
        }
    }
    let first = start.lines().next().unwrap_or("").trim_end();
    if first == "#cloud-config" {
        return Ok(text);
    }
    if start.trim_start().starts_with('{') && start.contains("\"ignition\"") {
        return Err(refuse(format!("{file} is an Ignition configuration"))
            .with_help("Ignition is not supported: send a `#cloud-config`")
            .into());
    }
    let head: String = start
        .chars()
        .take(4096)
        .collect::<String>()
        .to_ascii_lowercase();
    if head.contains("mime-version:") || head.starts_with("content-type: multipart") {
        return Err(refuse(format!("{file} is a MIME archive of several parts"))
            .with_help("send one `#cloud-config`")
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
