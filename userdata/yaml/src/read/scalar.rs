//! What an unquoted scalar means to readers of YAML 1.1 and of YAML 1.2, and where they part.
//!
//! PyYAML (cloud-init) reads 1.1, Go's and Rust's readers 1.2 or a mixture. A text on which they
//! differ has no meaning here unless the wanted type settles it.

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Plain {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text,
    /// Readers disagree; the string describes how.
    Differs(&'static str),
}

pub(crate) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// A boolean in either version: where a boolean is wanted, `yes` has one meaning.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// The meaning of an unquoted scalar when nothing is known of the wanted type.
pub(crate) fn resolve(text: &str) -> Plain {
    if is_null(text) {
        return Plain::Null;
    }
    match text {
        "true" | "True" | "TRUE" => return Plain::Bool(true),
        "false" | "False" | "FALSE" => return Plain::Bool(false),
        "y" | "Y" | "n" | "N" => return Plain::Differs("a boolean to YAML 1.1, text to YAML 1.2"),
        _ if boolean(text).is_some() => {
            return Plain::Differs("a boolean to YAML 1.1, text to YAML 1.2");
        }
        "=" | "<<" => return Plain::Differs("an operator to YAML 1.1, text to YAML 1.2"),
        ".inf" | ".Inf" | ".INF" | "+.inf" => return Plain::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Plain::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Plain::Float(f64::NAN),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Plain::Text;
    }
    number(text, unsigned)
}

fn number(text: &str, digits: &str) -> Plain {
    let all = |s: &str, ok: fn(&u8) -> bool| !s.is_empty() && s.bytes().all(|b| ok(&b));
    if let Some(hex) = digits.strip_prefix("0x") {
        return match u64::from_str_radix(hex, 16) {
            Ok(value) if digits.len() == text.len() && all(hex, u8::is_ascii_hexdigit) => {
                Plain::Unsigned(value)
            }
            _ if all(&hex.replace('_', ""), u8::is_ascii_hexdigit) => {
                Plain::Differs("a number to some readers, text to others")
            }
            _ => Plain::Text,
        };
    }
    if let Some(octal) = digits.strip_prefix("0o") {
        return if all(octal, |b| (b'0'..=b'7').contains(b)) {
            Plain::Differs("octal to YAML 1.2, text to YAML 1.1")
        } else {
            Plain::Text
        };
    }
    if let Some(binary) = digits.strip_prefix("0b") {
        return if all(binary, |b| matches!(b, b'0' | b'1' | b'_')) {
            Plain::Differs("binary to YAML 1.1, text to YAML 1.2")
        } else {
            Plain::Text
        };
    }
    if all(digits, u8::is_ascii_digit) {
        if digits.len() > 1 && digits.starts_with('0') {
            return Plain::Differs("octal or text to YAML 1.1, decimal to YAML 1.2");
        }
        return match (
            text.trim_start_matches('+').parse::<u64>(),
            text.parse::<i64>(),
        ) {
            (Ok(value), _) => Plain::Unsigned(value),
            (_, Ok(value)) => Plain::Signed(value),
            _ => Plain::Differs("a number too large for most readers"),
        };
    }
    if is_sexagesimal(digits) {
        return Plain::Differs("a number in base 60 to YAML 1.1, text to YAML 1.2");
    }
    if is_date(text) {
        return Plain::Differs("a date to YAML 1.1, text to YAML 1.2");
    }
    let bare = digits.replace('_', "");
    if all(&bare, |b| b.is_ascii_digit()) {
        return Plain::Differs("a number to YAML 1.1, text to YAML 1.2");
    }
    float(text, &bare, bare.len() != digits.len())
}

fn float(text: &str, digits: &str, underscores: bool) -> Plain {
    let float_like = digits
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && digits.bytes().any(|b| b.is_ascii_digit());
    let Some(value) = text
        .replace('_', "")
        .parse::<f64>()
        .ok()
        .filter(|_| float_like)
    else {
        return Plain::Text;
    };
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (digits, None),
    };
    // PyYAML wants digits on the left of a point, and a sign in the exponent.
    let both = !underscores
        && mantissa
            .split_once('.')
            .is_some_and(|(left, right)| !left.is_empty() && !right.is_empty())
        && exponent.is_none_or(|exponent| exponent.starts_with(['+', '-']));
    if both {
        Plain::Float(value)
    } else {
        Plain::Differs("a number to some readers, text to others")
    }
}

fn is_sexagesimal(digits: &str) -> bool {
    let whole = digits.split_once('.').map_or(digits, |(whole, _)| whole);
    let mut parts = whole.split(':');
    let first = parts.next().unwrap_or("");
    let mut rest = 0;
    let fits = parts.all(|part| {
        rest += 1;
        (1..=2).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_digit())
            && part.parse::<u8>().is_ok_and(|minutes| minutes < 60)
    });
    fits && rest > 0 && !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit() || b == b'_')
}

fn is_date(text: &str) -> bool {
    let date = text.split(['T', 't', ' ']).next().unwrap_or("");
    let parts: Vec<&str> = date.split('-').collect();
    parts.len() == 3
        && parts[0].len() == 4
        && parts[1..].iter().all(|part| (1..=2).contains(&part.len()))
        && parts
            .iter()
            .all(|part| part.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether every reader takes unquoted `text` as text, in block and in flow style.
pub(crate) fn is_plain_text(text: &str) -> bool {
    let mut bytes = text.bytes();
    let starts = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'/');
    starts
        && text.bytes().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/' | b'@' | b'+' | b' ')
        })
        && !text.ends_with(' ')
        && text.len() <= 512
        && resolve(text) == Plain::Text
        && !["true", "false", "yes", "no", "on", "off", "null", "y", "n"]
            .iter()
            .any(|word| word.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_scalars_are_detected() {
        let differs = [
            "yes",
            "On",
            "no",
            "y",
            "0644",
            "08",
            "0o644",
            "0b11",
            "1_000",
            "1:30",
            "12:30:45",
            "52:54:00:12:34:56",
            "2026-01-01",
            "2026-01-01T10:00:00Z",
            "1e3",
            "1.",
            ".5",
            "=",
            "<<",
            "-0x1f",
            "1.5e3",
            "190:20:30.15",
        ];
        for text in differs {
            assert!(
                matches!(resolve(text), Plain::Differs(_)),
                "{text}: {:?}",
                resolve(text)
            );
        }
        let agree = [
            ("", Plain::Null),
            ("~", Plain::Null),
            ("true", Plain::Bool(true)),
            ("644", Plain::Unsigned(644)),
            ("-3", Plain::Signed(-3)),
            ("0x1F", Plain::Unsigned(31)),
            ("1.5", Plain::Float(1.5)),
            ("1.5e+3", Plain::Float(1500.0)),
            ("08:00:27:00:00:61", Plain::Text),
            ("10.0.0.1", Plain::Text),
            ("1.20.2", Plain::Text),
            ("10.0.0.0/8", Plain::Text),
            ("5m", Plain::Text),
            ("-", Plain::Text),
            ("word", Plain::Text),
        ];
        for (text, meaning) in agree {
            assert_eq!(resolve(text), meaning, "{text}");
        }
    }
}
