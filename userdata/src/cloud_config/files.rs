//! `write_files`, decoded to bytes before any file is written.
//!
//! cloud-init decodes while it writes, so one invalid file prevents the files after it, and it
//! treats an unknown encoding as plain text. Here both are errors of the document.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::payload::{MAX_BYTES, gunzip};
use super::raw::WriteFile;
use crate::secret::Secret;
use yaml::{Diagnostics, Scalar, Spans, Style, nearest};

/// A file the document brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Absolute, without `.` and `..`.
    pub path: String,
    /// By name, looked up on the host: the document's own users may be among them.
    pub owner: Owner,
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    pub content: Secret<Vec<u8>>,
    /// To the end of a file that may be there already.
    pub append: bool,
    /// Late, after users exist. We make users first anyway.
    pub defer: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub user: String,
    /// The user's own group when `None`... which for `root` is `root`.
    pub group: Option<String>,
}

impl Owner {
    pub fn root() -> Self {
        Owner {
            user: "root".to_owned(),
            group: Some("root".to_owned()),
        }
    }
}

const ENCODINGS: &[&str] = &[
    "text/plain",
    "b64",
    "base64",
    "gz+b64",
    "gz+base64",
    "gzip+b64",
    "gzip+base64",
    "gz",
    "gzip",
];

pub(super) fn decode(raw: Vec<WriteFile>, spans: &Spans, found: &mut Diagnostics) -> Vec<File> {
    let mut left = MAX_BYTES;
    let mut files = Vec::with_capacity(raw.len());
    for (i, file) in raw.into_iter().enumerate() {
        let at = format!("write_files[{i}]");
        let mut error = |key: &str, message: String, help: Option<String>| {
            found.push_unless_known(spans.error_at(&format!("{at}.{key}"), message, help));
        };
        let path = absolute(&file.path).map_err(|why| error("path", why, None));
        let mode = file.permissions.as_ref().map_or(Ok(0o644), mode);
        let mode = mode.map_err(|(why, help)| error("permissions", why, help));
        let owner = file.owner.as_deref().map_or(Ok(Owner::root()), owner);
        let owner = owner.map_err(|why| error("owner", why, None));
        if file.source.is_some() {
            let help = "put the content into the document".to_owned();
            error(
                "source",
                "fetching a file is not supported".to_owned(),
                Some(help),
            );
        }
        let content = match &file.content {
            None => Ok(Vec::new()),
            Some(content) => {
                bytes(content.0.expose(), file.encoding.as_deref(), left).map_err(|fault| {
                    match fault {
                        Fault::Encoding(why, help) => error("encoding", why, help),
                        Fault::Content(why) => error("content", why, None),
                    }
                })
            }
        };
        if let (Ok(path), Ok(mode), Ok(owner), Ok(content)) = (path, mode, owner, content) {
            left = left.saturating_sub(content.len() as u64);
            let content = Secret::new(content);
            files.push(File {
                path,
                owner,
                mode,
                content,
                append: file.append,
                defer: file.defer,
            });
        }
    }
    files
}

fn absolute(path: &str) -> Result<String, String> {
    if path.contains('\0') || path.contains('\n') {
        return Err("a path cannot hold line breaks or NUL".to_owned());
    }
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.is_empty() || path.ends_with('/') {
        return Err("the path names no file".to_owned());
    }
    if parts.contains(&"..") {
        return Err("the path climbs with `..`".to_owned());
    }
    // cloud-init makes relative paths absolute in the same way.
    Ok(format!("/{}", parts.join("/")))
}

/// Octal by its text: PyYAML reads `0644` as 420, which is right, and `644` as 644, which is mode
/// 1204.
fn mode(scalar: &Scalar) -> Result<u32, (String, Option<String>)> {
    let text = scalar.text.trim();
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal =
        (1..=5).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let Some(value) = u32::from_str_radix(digits, 8)
        .ok()
        .filter(|value| octal && *value <= 0o7777)
    else {
        return Err((
            "the mode must be octal digits, at most 7777".to_owned(),
            Some("write `'0644'`".to_owned()),
        ));
    };
    if scalar.style == Style::Plain && !text.starts_with('0') {
        let why =
            "an unquoted mode without a leading zero is a decimal number to cloud-init".to_owned();
        return Err((why, Some(format!("write `'{value:04o}'`"))));
    }
    Ok(value)
}

fn owner(text: &str) -> Result<Owner, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let bad = |name: &str| name.is_empty() || name.contains([':', '/', ' ', '\n', '\0']);
    if bad(user) || group.is_some_and(bad) {
        return Err("the owner must be `user` or `user:group`".to_owned());
    }
    Ok(Owner {
        user: user.to_owned(),
        group: group.map(str::to_owned),
    })
}

enum Fault {
    Encoding(String, Option<String>),
    Content(String),
}

fn bytes(content: &Scalar, encoding: Option<&str>, limit: u64) -> Result<Vec<u8>, Fault> {
    let encoding = encoding.unwrap_or("text/plain").to_ascii_lowercase();
    let (base64, gzip) = match encoding.as_str() {
        "" | "text/plain" => (false, false),
        "b64" | "base64" => (true, false),
        "gz" | "gzip" => (false, true),
        "gz+b64" | "gz+base64" | "gzip+b64" | "gzip+base64" => (true, true),
        other => {
            let help = nearest(other, ENCODINGS.iter().copied())
                .map(|known| format!("did you mean `{known}`?"));
            let known = "known are `text/plain`, `b64`, `gz` and `gz+b64`";
            return Err(Fault::Encoding(
                "unknown encoding".to_owned(),
                help.or_else(|| Some(known.to_owned())),
            ));
        }
    };
    let mut bytes = content.text.clone().into_bytes();
    if content.style == Style::Binary {
        bytes = unbase64(&bytes).map_err(Fault::Content)?;
    } else if gzip && !base64 {
        let help = "write base64 and `encoding: gz+b64`".to_owned();
        return Err(Fault::Encoding(
            "text cannot hold gzip data".to_owned(),
            Some(help),
        ));
    }
    if base64 {
        bytes = unbase64(&bytes).map_err(Fault::Content)?;
    }
    if gzip {
        bytes = gunzip(&bytes, limit).map_err(Fault::Content)?;
    }
    if bytes.len() as u64 > limit {
        return Err(Fault::Content(format!(
            "the files together are larger than {MAX_BYTES} bytes"
        )));
    }
    Ok(bytes)
}

fn unbase64(text: &[u8]) -> Result<Vec<u8>, String> {
    let packed: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    // The decoder's own words quote the offending byte, which may be part of a key.
    STANDARD.decode(packed).map_err(|error| match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => {
            format!("bad base64: character {} is wrong", at + 1)
        }
        base64::DecodeError::InvalidLength(length) => {
            format!("bad base64: {length} characters are not whole bytes")
        }
        base64::DecodeError::InvalidPadding => "bad base64: the padding (`=`) is wrong".to_owned(),
    })
}
