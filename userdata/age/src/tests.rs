use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use flate2::read::ZlibDecoder;
use proptest::prelude::*;
use ring::digest::{SHA256, digest};

use super::*;

const PASSPHRASE: &str = "cbdefghi-jklnrtuv-cbdefghi-jklnrtuv";

/// One of C2SP's test vectors.
struct Vector {
    name: String,
    keys: BTreeMap<String, String>,
    file: Vec<u8>,
}

impl Vector {
    fn expects(&self, outcome: &str) -> bool {
        self.keys["expect"] == outcome
    }

    fn file_key(&self) -> Vec<u8> {
        let digits = self.keys["file key"].as_bytes();
        let pairs = digits.chunks(2).map(|pair| str::from_utf8(pair).unwrap());
        pairs
            .map(|pair| u8::from_str_radix(pair, 16).unwrap())
            .collect()
    }

    fn assert_contents(&self, plain: &[u8]) {
        let digits = digest(&SHA256, plain);
        let digits: String = digits.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(digits, self.keys["payload"], "{}", self.name);
    }
}

/// The vectors whose names begin so.
fn vectors(prefix: &str) -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut vectors = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
        if !name.starts_with(prefix) {
            continue;
        }
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let end = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap();
        let keys = str::from_utf8(&bytes[..end]).unwrap().lines();
        let keys = keys.map(|line| line.split_once(": ").unwrap());
        let keys: BTreeMap<_, _> = keys.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let mut file = bytes[end + 2..].to_vec();
        if keys.contains_key("compressed") {
            let mut plain = Vec::new();
            ZlibDecoder::new(&*file).read_to_end(&mut plain).unwrap();
            file = plain;
        }
        vectors.push(Vector { name, keys, file });
    }
    vectors
}

#[test]
fn vectors_of_passphrases_open_or_fail_as_they_should() {
    let vectors = vectors("scrypt");
    assert_eq!(vectors.len(), 25);
    for vector in vectors {
        let name = &vector.name;
        let opened = Sealed::read(&vector.file, MAX_WORK_FACTOR)
            .and_then(|sealed| sealed.open(&vector.keys["passphrase"]));
        match opened {
            Ok(plain) => {
                assert!(vector.expects("success"), "{name}");
                vector.assert_contents(&plain);
            }
            Err(Error::WrongPassphrase) => {
                let is_damaged = ["scrypt_bad_tag", "scrypt_work_factor_wrong"];
                let is_damaged = is_damaged.contains(&name.as_str());
                assert!(vector.expects("no match") || is_damaged, "{name}");
            }
            Err(Error::OtherKind(kind)) => {
                let is_other = vector.expects("no match") && kind == "Scrypt";
                assert!(is_other || name == "scrypt_and_x25519", "{name}: {kind}");
            }
            Err(_) => assert!(vector.expects("header failure"), "{name}"),
        }
    }
}

#[test]
fn vectors_of_letters_are_read_or_refused_as_they_should() {
    let vectors = vectors("armor");
    assert!(vectors.len() > 20, "{}", vectors.len());
    for vector in vectors {
        let name = &vector.name;
        let read = armor::read(&vector.file);
        // No person puts white space before a document, and it would hide what it is.
        let is_stricter = ["armor_whitespace_begin", "armor_whitespace_outside"];
        let is_stricter = is_stricter.contains(&name.as_str());
        let expected = !vector.expects("armor failure") && !is_stricter;
        assert_eq!(read.is_ok(), expected, "{name}: {:?}", read.err());
        if let Ok(binary) = read {
            assert_eq!(
                armor::read(armor::write(&binary).as_bytes()).unwrap(),
                binary
            );
        }
    }
}

#[test]
fn vectors_of_contents_open_or_fail_as_they_should() {
    let vectors = vectors("stream");
    assert!(vectors.len() > 20, "{}", vectors.len());
    for vector in vectors {
        let name = &vector.name;
        let file = &vector.file;
        let mac = file
            .windows(5)
            .position(|bytes| bytes == b"\n--- ")
            .unwrap();
        let line = file[mac + 1..].iter().position(|b| *b == b'\n').unwrap();
        let opened = payload::open(&vector.file_key(), &file[mac + line + 2..]);
        match opened {
            Ok(plain) => {
                assert!(vector.expects("success"), "{name}");
                vector.assert_contents(&plain);
            }
            Err(_) => assert!(!vector.expects("success"), "{name}"),
        }
    }
}

#[test]
fn any_length_is_opened_again_and_only_by_its_passphrase() {
    for length in [0, 1, 47, 48, 65_535, 65_536, 65_537, 200_000] {
        let plain = vec![b'x'; length];
        let text = seal(&plain, PASSPHRASE);
        assert!(is_sealed(text.as_bytes()));
        assert_eq!(text, seal(&plain, PASSPHRASE), "the same bytes again");
        let sealed = Sealed::read(text.as_bytes(), WORK_FACTOR).unwrap();
        assert!(sealed.open(PASSPHRASE).unwrap() == plain, "{length}");
        let wrong = sealed.open(&PASSPHRASE[1..]);
        assert_eq!(wrong, Err(Error::WrongPassphrase));
    }
}

#[test]
fn other_contents_or_passphrase_have_other_keys() {
    let lines = |text: String| -> Vec<Vec<u8>> {
        let binary = armor::read(text.as_bytes()).unwrap();
        let (header, payload) = Header::read(&binary).unwrap();
        vec![header.salt.to_vec(), header.body, payload[..16].to_vec()]
    };
    let all = [
        lines(seal(b"a", PASSPHRASE)),
        lines(seal(b"b", PASSPHRASE)),
        lines(seal(b"a", "another")),
    ];
    let [first, second, third] = &all;
    for (part, (other, another)) in first.iter().zip(second.iter().zip(third)) {
        assert_ne!(part, other);
        assert_ne!(part, another);
    }
}

#[test]
fn every_changed_byte_is_an_error() {
    let binary = armor::read(seal(b"contents", PASSPHRASE).as_bytes()).unwrap();
    for at in 0..binary.len() {
        let mut changed = binary.clone();
        changed[at] ^= 1;
        let opened = Sealed::read(&changed, WORK_FACTOR).and_then(|file| file.open(PASSPHRASE));
        assert!(opened.is_err(), "byte {at}");
    }
    for length in 0..binary.len() {
        let cut = Sealed::read(&binary[..length], WORK_FACTOR);
        assert!(
            cut.and_then(|file| file.open(PASSPHRASE)).is_err(),
            "{length}"
        );
    }
}

#[test]
fn costly_work_and_other_keys_are_refused_by_name() {
    let file = |stanza: &str| format!("age-encryption.org/v1\n-> {stanza}\n");
    let salt = "rF0/NwblUHHTpgQgRpe5CQ";
    let body = "gUjEymFKMVXQEKdMMHL24oYexjE3TIC0O0zGSqJ2aUY";
    let mac = "--- IOXiQYStkoT1mvZW2tFOqZdhRVvj58egABx/sWfZQbc";
    for (factor, shown) in [("19", "512 MiB"), ("30", "1048576 MiB"), ("999", "255")] {
        let text = file(&format!("scrypt {salt} {factor}\n{body}\n{mac}"));
        let error = Sealed::read(text.as_bytes(), MAX_WORK_FACTOR).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("work factor") && error.contains(shown),
            "{error}"
        );
    }
    let text = file("X25519 TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc");
    let error = Sealed::read(text.as_bytes(), MAX_WORK_FACTOR).unwrap_err();
    assert!(error.to_string().contains("`X25519`"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let text = [BEGIN.as_bytes(), b"\n", &bytes].concat();
        let binary = [INTRO, b"-> scrypt ", &bytes].concat();
        for file in [&bytes, &text, &binary] {
            prop_assert!(Sealed::read(file, WORK_FACTOR).is_err());
        }
    }
}
