//! Writes YAML that YAML 1.1 and 1.2 readers interpret identically.
//!
//! `serde_yaml` turns the value into its tree; its own writer is not used, because it leaves `no`,
//! `1:30` and `2026-01-01` unquoted and those are a boolean, a number and a date to a YAML 1.1
//! reader.

use std::fmt::Write;

use serde::Serialize;
use serde_yaml::Value;

use crate::read::scalar;

/// Block style, keys in the order of the type, ends with a newline. The same value gives the same
/// bytes.
///
/// # Panics
/// If `Serialize` reports an error or writes raw bytes. For a type whose `Serialize` can fail on a
/// value (a `Path`), use [`try_to_string`].
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> String {
    match try_to_string(value) {
        Ok(text) => text,
        Err(error) => panic!("{} cannot be written: {error}", std::any::type_name::<T>()),
    }
}

/// The error of a value whose `Serialize` failed.
#[derive(Debug, thiserror::Error)]
#[error("the value has no form in YAML: {0}")]
pub struct NotWritable(String);

/// [`to_string`] for values whose `Serialize` can fail.
pub fn try_to_string<T: Serialize + ?Sized>(value: &T) -> Result<String, NotWritable> {
    let value = serde_yaml::to_value(value).map_err(|error| NotWritable(error.to_string()))?;
    let mut out = String::new();
    match &value {
        Value::Mapping(map) if !map.is_empty() => mapping(&mut out, map, 0, false),
        Value::Sequence(items) if !items.is_empty() => sequence(&mut out, items, 0, false),
        other => {
            scalar(&mut out, other, 0);
            out.push('\n');
        }
    }
    Ok(out)
}

/// `started`: the first line already has its indentation, because it follows a `- `.
fn mapping(out: &mut String, map: &serde_yaml::Mapping, indent: usize, mut started: bool) {
    for (key, value) in map {
        if !std::mem::take(&mut started) {
            pad(out, indent);
        }
        let start = out.len();
        match key {
            Value::String(text) => quoted_or_plain(out, text),
            other => scalar(out, other, indent),
        }
        // YAML 1.1 readers reject a simple key longer than 1024 characters.
        if out.len() - start > 1000 {
            out.insert_str(start, "? ");
            out.push('\n');
            pad(out, indent);
        }
        out.push(':');
        child(out, value, indent);
    }
}

fn sequence(out: &mut String, items: &[Value], indent: usize, mut started: bool) {
    for item in items {
        if !std::mem::take(&mut started) {
            pad(out, indent);
        }
        out.push('-');
        match item {
            Value::Mapping(map) if !map.is_empty() => {
                out.push(' ');
                mapping(out, map, indent + 2, true);
            }
            Value::Sequence(inner) if !inner.is_empty() => {
                out.push(' ');
                sequence(out, inner, indent + 2, true);
            }
            other => child(out, other, indent),
        }
    }
}

/// What follows a `key:` or a `-`, up to and including the newline.
fn child(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Mapping(map) if !map.is_empty() => {
            out.push('\n');
            mapping(out, map, indent + 2, false);
        }
        Value::Sequence(items) if !items.is_empty() => {
            out.push('\n');
            sequence(out, items, indent, false);
        }
        // An enum with a payload: the readers' common form is a mapping of one key.
        Value::Tagged(tagged) => {
            out.push('\n');
            pad(out, indent + 2);
            quoted_or_plain(out, tagged.tag.to_string().trim_start_matches('!'));
            out.push(':');
            child(out, &tagged.value, indent + 2);
        }
        other => {
            out.push(' ');
            scalar(out, other, indent + 2);
            if !out.ends_with('\n') {
                out.push('\n');
            }
        }
    }
}

/// A block scalar ends with its newline, everything else without.
fn scalar(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&numeral(number)),
        Value::String(text) if indent > 0 && is_block_text(text) => block(out, text, indent),
        Value::String(text) => quoted_or_plain(out, text),
        Value::Sequence(_) => out.push_str("[]"),
        Value::Mapping(_) => out.push_str("{}"),
        Value::Null | Value::Tagged(_) => out.push_str("null"),
    }
}

fn numeral(number: &serde_yaml::Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else {
        return number.to_string();
    };
    if float.is_nan() {
        return ".nan".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    // PyYAML reads `1e20` as text: it wants the point and the sign.
    let text = format!("{float:?}");
    match text.split_once('e') {
        None => text,
        Some((mantissa, exponent)) => {
            let point = if mantissa.contains('.') { "" } else { ".0" };
            let sign = if exponent.starts_with('-') { "" } else { "+" };
            format!("{mantissa}{point}e{sign}{exponent}")
        }
    }
}

/// Characters no reader treats as a line break or refuses.
fn is_printable(c: char) -> bool {
    !(c.is_control()
        || matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        ))
}

fn is_block_text(text: &str) -> bool {
    let ascii = text
        .bytes()
        .all(|b| matches!(b, b'\n' | b'\t' | b' '..=b'~'));
    text.contains('\n')
        && !text.starts_with(['\n', '\t'])
        && (ascii || text.chars().all(|c| c == '\n' || c == '\t' || is_printable(c)))
        // Readers differ on blank-only lines at the edges of a block.
        && text.split('\n').all(|line| line.is_empty() || line.bytes().any(|b| b != b' ' && b != b'\t'))
        && !text.trim_end_matches('\n').is_empty()
}

fn block(out: &mut String, text: &str, indent: usize) {
    out.push('|');
    // The indentation would otherwise be guessed from the first line.
    if text.starts_with(' ') {
        out.push('2');
    }
    match text.len() - text.trim_end_matches('\n').len() {
        0 => out.push('-'),
        1 => {}
        _ => out.push('+'),
    }
    out.push('\n');
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
        out.push('\n');
    }
}

fn quoted_or_plain(out: &mut String, text: &str) {
    if scalar::is_plain_text(text) {
        out.push_str(text);
        return;
    }
    quoted(out, text);
}

pub(crate) fn quoted(out: &mut String, text: &str) {
    out.push('"');
    if text
        .bytes()
        .all(|b| matches!(b, b' '..=b'~') && b != b'"' && b != b'\\')
    {
        out.push_str(text);
        out.push('"');
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_printable(c) => out.push(c),
            c => {
                // Everything that is not printable lies in the first plane.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
        }
    }
    out.push('"');
}

fn pad(out: &mut String, mut indent: usize) {
    const BLANKS: &str = "                                ";
    while indent > BLANKS.len() {
        out.push_str(BLANKS);
        indent -= BLANKS.len();
    }
    out.push_str(&BLANKS[..indent]);
}
