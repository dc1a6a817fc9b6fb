//! Finds and decodes base64 inside other text.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Shorter base64 has no key.
const MIN_BASE64: usize = 40;

/// Possible base64: each long word, and the joined lines of a block.
pub(super) fn base64_runs(text: &str) -> Vec<String> {
    let mut runs = Vec::new();
    let mut lines = String::new();
    for line in text.lines().chain([" :"]) {
        let trimmed = line.trim();
        if !trimmed.is_empty() && trimmed.bytes().all(is_base64) {
            lines.push_str(trimmed);
            continue;
        }
        if lines.len() >= MIN_BASE64 {
            runs.push(std::mem::take(&mut lines));
        }
        lines.clear();
        if trimmed.len() >= MIN_BASE64 {
            let words = trimmed
                .as_bytes()
                .split(|b| !is_base64(*b))
                .filter(|word| word.len() >= MIN_BASE64);
            runs.extend(words.map(|word| String::from_utf8_lossy(word).into_owned()));
        }
    }
    runs
}

fn is_base64(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"+/=-_".contains(&b)
}

/// Decodes a run with the alphabet that its characters show.
pub(super) fn decode(run: &str) -> Vec<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    let engine = if run.contains(['-', '_']) {
        URL_SAFE
    } else {
        STANDARD
    };
    // Padding separates two values in one run.
    let parts = run.split_inclusive('=').collect::<Vec<_>>();
    let mut values: Vec<String> = Vec::new();
    for part in parts {
        match values.last_mut() {
            Some(last) if part == "=" => last.push('='),
            _ => values.push(part.to_owned()),
        }
    }
    values
        .iter()
        .filter_map(|value| engine.decode(value).ok())
        .collect()
}
