//! The file in letters: strict PEM, as age has it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Error;

/// Begins the file, so that a person sees what it is.
pub const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const END: &str = "-----END AGE ENCRYPTED FILE-----";
const COLUMNS: usize = 64;

pub(crate) fn write(bytes: &[u8]) -> String {
    let letters = STANDARD.encode(bytes);
    let mut text = String::with_capacity(letters.len() + letters.len() / COLUMNS + 80);
    text.push_str(BEGIN);
    text.push('\n');
    let mut rest = letters.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(COLUMNS));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(END);
    text.push('\n');
    text
}

pub(crate) fn read(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Damaged("it is no text"))?;
    let mut lines = text.trim_ascii_end().lines();
    if lines.next() != Some(BEGIN) {
        return Err(Error::Damaged("its first line was changed"));
    }
    let mut letters = String::with_capacity(text.len());
    let mut is_last = false;
    for line in lines.by_ref() {
        if line == END {
            is_last = true;
            break;
        }
        // Only the last line is short.
        if line.is_empty() || line.len() > COLUMNS || !letters.len().is_multiple_of(COLUMNS) {
            return Err(Error::Damaged("a line has another length"));
        }
        letters.push_str(line);
    }
    if !is_last {
        return Err(Error::Damaged("its end is missing"));
    }
    if lines.next().is_some() {
        return Err(Error::Damaged("something follows its end"));
    }
    STANDARD
        .decode(letters)
        .map_err(|_| Error::Damaged("it is no base64"))
}
