//! Archives that are made of headers, read as a package's are.

use std::io::Read as _;

use tar::{EntryType, Header};

use super::super::stream;
use super::*;

/// A header with any size in it, without the contents.
fn header(kind: EntryType, name: &str, size: u64) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn entry(kind: EntryType, name: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, name, body.len() as u64);
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = 3 + key.len() + value.len();
        let digits = (1..9)
            .find(|digits| (rest + digits).to_string().len() == *digits)
            .unwrap();
        body.extend_from_slice(format!("{} {key}=", rest + digits).as_bytes());
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    entry(EntryType::XHeader, "pax", &body)
}

/// The names and sizes of the entries, or the error.
fn read(parts: &[Vec<u8>]) -> Result<Vec<(String, u64)>, String> {
    let mut bytes = parts.concat();
    bytes.extend_from_slice(&[0; 2 * BLOCK]);
    let mut found = Vec::new();
    stream::entries(&bytes[..], |entry| {
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        found.push((name, entry.size()));
        Ok(())
    })
    .map_err(|error| format!("{error:#}"))?;
    Ok(found)
}

fn refused(parts: &[Vec<u8>], words: &str) {
    let printed = read(parts).unwrap_err();
    assert!(printed.contains(words), "expected `{words}`: {printed}");
}

#[test]
fn extended_headers_are_limited_before_they_are_read() {
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
    ] {
        // The stream has no end: only the limit ends the reading.
        let endless = std::io::repeat(b'a');
        let bytes = std::io::Cursor::new(header(kind, "long", 1 << 40)).chain(endless);
        let error = stream::entries(bytes, |_| Ok(())).unwrap_err();
        let printed = format!("{error:#}");
        assert!(printed.contains("more than 1048576"), "{kind:?}: {printed}");
    }
    let name = entry(EntryType::GNULongName, "a", b"name\0");
    let file = entry(EntryType::Regular, "f", b"x");
    refused(&[name.clone(), name.clone(), file.clone()], "of one kind");
    let long = "d/".repeat(300) + "f";
    let whole = entry(EntryType::GNULongName, "a", long.as_bytes());
    assert_eq!(read(&[whole, file]).unwrap(), [(long, 1)]);
}

#[test]
fn sizes_of_no_file_are_refused() {
    for size in [u64::MAX, u64::MAX - 511, i64::MAX as u64] {
        refused(
            &[header(EntryType::Regular, "f", size)],
            "more than a file has",
        );
    }
    // The crate takes the records' size, and a sum with the header's overflows.
    for size in [u64::MAX, 1 << 62, 1] {
        let parts = [
            pax(&[("size", b"0")]),
            header(EntryType::Regular, "f", size),
        ];
        refused(&parts, "has two sizes");
    }
    refused(
        &[pax(&[("size", b"12")]), entry(EntryType::Regular, "f", b"")],
        "has two sizes",
    );
    // As GNU tar writes a file that does not fit into the digits, here cut off.
    let large = [
        pax(&[("size", b"8589934592")]),
        header(EntryType::Regular, "f", 0),
    ];
    refused(&large, "cut off");
}

#[test]
fn records_mean_the_same_to_every_reader() {
    let file = entry(EntryType::Regular, "f", b"x");
    let with = |records: &[(&str, &[u8])]| read(&[pax(records), file.clone()]);
    assert_eq!(with(&[("path", b"p")]).unwrap(), [("p".to_owned(), 1)]);
    // A capability with a line break says nothing of where the entry goes.
    let capability: &[u8] = b"\x01\0\0\x02\n\x04\0\0";
    assert_eq!(
        with(&[
            ("path", b"p"),
            ("SCHILY.xattr.security.capability", capability)
        ])
        .unwrap(),
        [("p".to_owned(), 1)]
    );
    for records in [
        // To a reader of lines the second line is a record of its own.
        &[("SCHILY.xattr.user.a", b"\n12 path=evi\n".as_slice())][..],
        // And an empty line ends the records.
        &[("SCHILY.xattr.user.a", b"\n\n"), ("path", b"p")],
        &[("path", b"p"), ("path", b"q")],
        &[("size", b"1"), ("size", b"1")],
    ] {
        let printed = with(records).unwrap_err();
        assert!(printed.contains("disagree"), "{records:?}: {printed}");
    }
    let printed = with(&[("GNU.sparse.major", b"1")]).unwrap_err();
    assert!(printed.contains("without holes"), "{printed}");
    let printed = with(&[("size", b"one")]).unwrap_err();
    assert!(printed.contains("not a number"), "{printed}");
}

#[test]
fn sparse_maps_are_no_contents() {
    let sparse = |size: u64| {
        let mut sparse = header(EntryType::GNUSparse, "s", 0);
        sparse[482] = 1; // `isextended`
        sparse[483..495].copy_from_slice(format!("{size:011o}\0").as_bytes());
        sparse[148..156].copy_from_slice(b"        ");
        let sum: u32 = sparse.iter().map(|byte| u32::from(*byte)).sum();
        sparse[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        sparse
    };
    // Holes that would take days to read, in twelve digits and in the base of large numbers.
    let mut base = sparse(0);
    base[483..495].copy_from_slice(&[0x80, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0]);
    base[148..156].copy_from_slice(b"        ");
    let sum: u32 = base.iter().map(|byte| u32::from(*byte)).sum();
    base[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    refused(&[base, vec![0; BLOCK]], "with its holes");
    let parts = [
        sparse(0),
        vec![0; BLOCK],
        entry(EntryType::Regular, "f", b"x"),
    ];
    assert_eq!(
        read(&parts).unwrap(),
        [("s".to_owned(), 0), ("f".to_owned(), 1)]
    );
}
