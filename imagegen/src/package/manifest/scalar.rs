//! What an unquoted scalar means to the apiserver.
//!
//! kubectl and the apiserver read YAML by sigs.k8s.io/yaml, a go-yaml of version 2: YAML 1.1 with
//! exceptions. `=` is text, a date is text, a number in base 60 is text, `0644` is octal.

use serde_json::{Number, Value};

/// The value of the unquoted `text`; `Err` if JSON cannot hold it.
pub(super) fn resolve(text: &str) -> Result<Value, &'static str> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF"
        | "-.inf" | "-.Inf" | "-.INF" => return Err("JSON has no such number; quote the text"),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) => {
            match number(&text.replace('_', "")) {
                Some(number) => Value::Number(number),
                None => Value::String(text.to_owned()),
            }
        }
        _ => Value::String(text.to_owned()),
    })
}

/// Go's `strconv.ParseInt(text, 0, 64)`, then its `ParseFloat` for decimal digits.
fn number(text: &str) -> Option<Number> {
    let negative = text.starts_with('-');
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let lower = digits.to_ascii_lowercase();
    let (radix, rest) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !rest.is_empty()
        && rest.bytes().all(|b| b.is_ascii_alphanumeric())
        && let Ok(value) = u64::from_str_radix(rest, radix)
    {
        if !negative {
            return Some(value.into());
        }
        if let Some(value) = 0_i64.checked_sub_unsigned(value) {
            return Some(value.into());
        }
    }
    let (mantissa, exponent) = match lower.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (lower.as_str(), None),
    };
    let all = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.map(|e| e.strip_prefix(['-', '+']).unwrap_or(e));
    let decimal = all(whole)
        && all(part)
        && !(whole.is_empty() && part.is_empty())
        && exponent.is_none_or(|e| !e.is_empty() && all(e));
    if !decimal {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    // Go writes a whole float without a point.
    if value.fract() == 0.0 && value.abs() < 1e15 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole and small, as tested"
        )]
        return Some((value as i64).into());
    }
    Number::from_f64(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_mean_what_gos_reader_takes_them_for() {
        for (text, value) in [
            ("=", json!("=")),
            ("0644", json!(420)),
            ("0o644", json!(420)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            ("1_000", json!(1000)),
            ("-12", json!(-12)),
            ("+7", json!(7)),
            ("08", json!(8)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000)),
            ("12:30:45", json!("12:30:45")),
            ("2001-01-01", json!("2001-01-01")),
            ("10.244.0.0/16", json!("10.244.0.0/16")),
            ("1.2.3", json!("1.2.3")),
            ("v1", json!("v1")),
            ("-", json!("-")),
            ("yes", json!(true)),
            ("off", json!(false)),
            ("y", json!(true)),
            ("~", Value::Null),
            ("18446744073709551615", json!(u64::MAX)),
            ("0.0.0.0", json!("0.0.0.0")),
            ("1e", json!("1e")),
        ] {
            assert_eq!(resolve(text), Ok(value), "{text}");
        }
        assert!(resolve(".inf").is_err());
    }
}
