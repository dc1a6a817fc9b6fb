//! The `Range` header: firmware and firstboot fetch large files in parts.

/// What a request wants of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    /// First byte, and one after the last.
    Part(u64, u64),
    /// The range lies outside the file.
    Outside,
}

/// Several ranges, other units and broken headers get the whole file, as RFC 9110 allows.
pub(super) fn wanted(header: Option<&str>, length: u64) -> Wanted {
    let range = header.and_then(|text| text.trim().strip_prefix("bytes="));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        return Wanted::All;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (number(first), number(last)) {
        (Some(first), _) if first >= length && (last.is_empty() || number(last).is_some()) => {
            Wanted::Outside
        }
        (Some(first), Some(last)) if last >= first => {
            Wanted::Part(first, last.saturating_add(1).min(length))
        }
        (Some(first), None) if last.is_empty() => Wanted::Part(first, length),
        (None, Some(0)) if first.is_empty() => Wanted::Outside,
        (None, Some(count)) if first.is_empty() => {
            Wanted::Part(length.saturating_sub(count), length)
        }
        _ => Wanted::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_honoured_and_a_broken_one_ignored() {
        for (header, expected) in [
            (None, Wanted::All),
            (Some("bytes=0-0"), Wanted::Part(0, 1)),
            (Some("bytes=2-"), Wanted::Part(2, 10)),
            (Some("bytes=2-99"), Wanted::Part(2, 10)),
            (Some("bytes=-3"), Wanted::Part(7, 10)),
            (Some("bytes=-30"), Wanted::Part(0, 10)),
            (Some("bytes=0-99999999999999999999999"), Wanted::Part(0, 10)),
            (Some("bytes=10-"), Wanted::Outside),
            (Some("bytes=-0"), Wanted::Outside),
            (Some("bytes=5-2"), Wanted::All),
            (Some("bytes=0-1,4-5"), Wanted::All),
            (Some("bytes=a-b"), Wanted::All),
            (Some("bytes=+1-3"), Wanted::All),
            (Some("lines=0-1"), Wanted::All),
        ] {
            assert_eq!(wanted(header, 10), expected, "{header:?}");
        }
        assert_eq!(wanted(Some("bytes=0-0"), 0), Wanted::Outside);
    }
}
