//! Go's encodings of numbers and times, as containerd stores them.

/// Go's `time.Time.MarshalBinary`, version 1, in UTC: seconds since year 1, nanoseconds, zone
/// offset.
pub(super) fn go_time(unix: u64) -> Vec<u8> {
    const YEAR_ONE_TO_1970: u64 = 62_135_596_800;
    let mut bytes = vec![1];
    bytes.extend((unix + YEAR_ONE_TO_1970).to_be_bytes());
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend((-1_i16).to_be_bytes());
    bytes
}

/// Go's `binary.PutUvarint`.
pub(super) fn uvarint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value as u8) | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Go's `binary.PutVarint`: zig-zag, then as [`uvarint`].
pub(super) fn varint(value: i64) -> Vec<u8> {
    uvarint(((value << 1) ^ (value >> 63)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_have_go_encoding() {
        assert_eq!(uvarint(1), [1]);
        assert_eq!(uvarint(300), [0xac, 0x02]);
        assert_eq!(varint(3), [6]);
        assert_eq!(varint(-1), [1]);
        // time.Unix(0, 0).UTC().MarshalBinary()
        assert_eq!(
            go_time(0),
            [
                1, 0, 0, 0, 0x0e, 0x77, 0x91, 0xf7, 0, 0, 0, 0, 0, 0xff, 0xff
            ]
        );
    }
}
