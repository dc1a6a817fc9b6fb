//! User-data of several parts: MIME, and `#cloud-config-archive`.

use mail_parser::{HeaderValue, MessageParser, MessagePart, MimeHeaders, PartType};
use serde::Deserialize;

use super::payload::Unpacker;
use yaml::{Diagnostic, Diagnostics, Severity};

/// Types of parts that are read by how they begin, as `text/plain` is.
const BY_CONTENT: [&str; 8] = [
    "text/plain",
    "text/x-not-multipart",
    "text/cloud-config",
    "text/cloud-config-archive",
    "text/jinja2",
    "text/x-shellscript",
    "application/gzip",
    "application/x-gzip",
];

/// Whether the bytes begin with the headers of a MIME message, as cloud-init finds it.
pub(super) fn is_mime(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(4096)];
    if head.starts_with(b"#") {
        return false;
    }
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.contains("mime-version:") || head.starts_with("content-type: multipart")
}

/// Adds the parts of a MIME archive.
pub(super) fn mime(
    unpacker: &mut Unpacker<'_>,
    name: &str,
    bytes: &[u8],
    depth: usize,
) -> Result<(), Diagnostics> {
    let broken = || Diagnostic::new(Severity::Error, name, "not a valid MIME archive");
    let message = MessageParser::default().parse(bytes).ok_or_else(broken)?;
    let mut found = Diagnostics::default();
    let mut count = 0;
    let alone = message.parts.len() == 1;
    for part in &message.parts {
        let kind = type_of(part);
        // Without its boundary an archive is one part.
        if matches!(part.body, PartType::Multipart(_)) || alone && kind.starts_with("multipart/") {
            continue;
        }
        count += 1;
        let name = part_name(name, count, part.attachment_name());
        if !BY_CONTENT.contains(&kind.as_str()) {
            let message = format!("a part of type `{kind}` is not read");
            let notice = Diagnostic::new(Severity::Warning, &name, message);
            unpacker.parts.notices.push(notice);
            continue;
        }
        let merge = header(part, "Merge-Type").or_else(|| header(part, "X-Merge-Type"));
        let added = unpacker.add(&name, part.contents(), merge.as_deref(), depth + 1);
        if let Err(errors) = added {
            found.extend(errors);
        }
    }
    if count == 0 {
        return Err(broken().into());
    }
    found.into_result().map(drop)
}

/// `text/plain` is MIME's default.
fn type_of(part: &MessagePart<'_>) -> String {
    part.content_type().map_or("text/plain".to_owned(), |kind| {
        let sub = kind.subtype().unwrap_or("plain");
        format!("{}/{sub}", kind.ctype()).to_ascii_lowercase()
    })
}

fn header(part: &MessagePart<'_>, name: &str) -> Option<String> {
    let mut headers = part.headers.iter();
    let header = headers.find(|header| header.name.as_str().eq_ignore_ascii_case(name))?;
    match &header.value {
        HeaderValue::Text(text) => Some(text.trim().to_owned()),
        _ => None,
    }
}

/// `user-data/part-002`, or by its file name.
fn part_name(name: &str, number: usize, file: Option<&str>) -> String {
    let good = |file: &&str| {
        let word = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        !file.is_empty() && file.len() <= 64 && file.bytes().all(word)
    };
    match file.filter(good) {
        Some(file) => format!("{name}/{file}"),
        None => format!("{name}/part-{number:03}"),
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Item {
    Text(String),
    Full(Entry),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    content: String,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    filename: Option<String>,
    #[serde(
        default,
        rename = "merge_type",
        alias = "Merge-Type",
        alias = "merge_how"
    )]
    merge: Option<String>,
    #[serde(default, rename = "launch-index")]
    #[allow(dead_code, reason = "an instance of a seed is the first")]
    launch_index: Option<u64>,
}

/// Adds the items of a cloud-config archive.
pub(super) fn list(
    unpacker: &mut Unpacker<'_>,
    name: &str,
    text: &str,
    depth: usize,
) -> Result<(), Diagnostics> {
    let items = yaml::parse_redacted::<Vec<Item>>(name, text)?;
    let mut found = Diagnostics::default();
    for (i, item) in items.value.into_iter().enumerate() {
        let entry = match item {
            Item::Full(entry) => entry,
            Item::Text(content) => Entry {
                content,
                kind: None,
                filename: None,
                merge: None,
                launch_index: None,
            },
        };
        let name = part_name(name, i + 1, entry.filename.as_deref());
        let kind = entry.kind.as_deref().unwrap_or("text/plain");
        if !BY_CONTENT.contains(&kind.to_ascii_lowercase().as_str()) {
            let message = format!("a part of type `{kind}` is not read");
            let notice = Diagnostic::new(Severity::Warning, &name, message);
            unpacker.parts.notices.push(notice);
            continue;
        }
        let content = with_first_line(&entry.content, kind);
        let added = unpacker.add(&name, content.as_bytes(), entry.merge.as_deref(), depth + 1);
        if let Err(errors) = added {
            found.extend(errors);
        }
    }
    found.into_result().map(drop)
}

/// A part may leave out the line that its type already says.
fn with_first_line(content: &str, kind: &str) -> String {
    let bare = !content.starts_with('#');
    match kind.to_ascii_lowercase().as_str() {
        "text/cloud-config" if bare => format!("#cloud-config\n{content}"),
        "text/x-shellscript" if bare => format!("#!/bin/sh\n{content}"),
        _ => content.to_owned(),
    }
}
