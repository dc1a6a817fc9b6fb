//! Reads the PAX records of a tar archive by their lengths, as Go's `archive/tar` does.

use anyhow::{Context as _, Result};

/// PAX records, `LENGTH KEY=VALUE\n`, in which a value may have any byte: the length ends it. Of
/// records with the same key the last one counts.
pub(crate) fn records(mut body: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut records = Vec::new();
    while !body.is_empty() {
        let record = record(&mut body).context("an entry has a PAX record that is not one")?;
        records.push(record);
    }
    Ok(records)
}

fn record(body: &mut &[u8]) -> Option<(String, Vec<u8>)> {
    let space = body.iter().take(8).position(|byte| *byte == b' ')?;
    let digits = std::str::from_utf8(&body[..space]).ok()?;
    let length: usize = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())??;
    let record = body.get(space + 1..length)?.strip_suffix(b"\n")?;
    *body = &body[length..];
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let key = std::str::from_utf8(&record[..equals]).ok()?;
    let value = &record[equals + 1..];
    let is_text = matches!(key, "path" | "linkpath" | "uname" | "gname");
    if key.is_empty() || key.contains('\0') || (is_text && value.contains(&0)) {
        return None;
    }
    Some((key.to_owned(), value.to_vec()))
}
