//! `document: {encrypt: passphrase}`: what is encrypted, and that age's own program opens it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use age_file::{MAX_WORK_FACTOR, Sealed, WORK_FACTOR, is_sealed};
use userdata::document::{Document, Seed};
use userdata::signature::{self, Files};

use crate::topology_cases::only_error;
use crate::work::{PROD, Work, skip, stderr};

const HOSTS: [&str; 4] = ["m0", "m1", "m2", "n0"];

fn encrypted() -> Work {
    let work = Work::new();
    work.topology(&format!("{PROD}document: {{encrypt: passphrase}}\n"));
    work
}

fn passphrase(work: &Work, host: &str) -> String {
    let path = work.path(&format!("prod/pki/passphrases/{host}.key"));
    let text = fs::read_to_string(path).expect("a passphrase");
    text.trim().to_owned()
}

fn read(work: &Work, host: &str, name: &str) -> Vec<u8> {
    fs::read(work.path(&format!("prod/hosts/{host}/{name}"))).expect("a file of a document")
}

fn opened(work: &Work, host: &str) -> Vec<u8> {
    let file = Sealed::read(&read(work, host, "user-data"), WORK_FACTOR).expect("an age file");
    file.open(&passphrase(work, host))
        .expect("the right passphrase")
}

/// Runs age, which takes a passphrase from a terminal only.
fn age(folder: &Path, arguments: &str, typed: &str) -> bool {
    let mut script = Command::new("script")
        .args(["--quiet", "--return", "--command"])
        .arg(format!("age {arguments}"))
        .arg("/dev/null")
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("running script (Debian: bsdutils)");
    let mut terminal = script.stdin.take().expect("a terminal");
    terminal.write_all(typed.as_bytes()).expect("typing");
    // Its end would be the end of what is typed.
    let status = script.wait().expect("waiting for age");
    drop(terminal);
    status.success()
}

fn has_age() -> bool {
    let found = Command::new("age").arg("--version").output().is_ok();
    if !found {
        skip("age is not installed (Debian: age)");
    }
    found
}

#[test]
fn unknown_encryption_is_an_error_with_its_place() {
    only_error(
        &format!("{PROD}document: {{encrypt: tpm2}}\n"),
        "error: unknown encryption of documents `tpm2`; write `passphrase` or `none`",
    );
}

#[test]
fn user_data_of_each_host_is_opened_by_its_own_passphrase_only() {
    let work = encrypted();
    let said = work.userdata();
    assert!(said.contains("prod/pki/passphrases/NAME.key"), "{said}");
    for host in HOSTS {
        let path = work.path(&format!("prod/pki/passphrases/{host}.key"));
        let mode = fs::metadata(path).expect("a passphrase").mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(passphrase(&work, host).len(), 35);
        let user_data = read(&work, host, "user-data");
        assert!(is_sealed(&user_data) && user_data.starts_with(b"-----BEGIN AGE"));
        let file = Sealed::read(&user_data, WORK_FACTOR).expect("an age file");
        for other in HOSTS {
            let opens = file.open(&passphrase(&work, other)).is_ok();
            assert_eq!(opens, other == host, "{host} by {other}");
        }
        // A machine finds its document without the passphrase.
        let (meta_data, network) = (
            read(&work, host, "meta-data"),
            read(&work, host, "network-config"),
        );
        let text = String::from_utf8(meta_data.clone()).expect("text");
        assert!(
            text.contains("match:") && text.contains("52:54:00"),
            "{text}"
        );
        // The signature is inside, over all files.
        let plain = opened(&work, host);
        let files = Files {
            user_data: &plain,
            meta_data: &meta_data,
            network_config: Some(&network),
            vendor_data: None,
        };
        let signed = signature::read(&files).expect("its place").expect("one");
        assert_eq!(signed.claims.host, host);
        let seed = Seed {
            name: host,
            user_data: &plain,
            meta_data: &meta_data,
            network_config: Some(&network),
        };
        assert!(Document::parse(seed).is_ok());
        // The seed disk has the same file, and nothing else that is secret.
        let seed = read(&work, host, "seed.img");
        let has = |text: &[u8]| seed.windows(text.len()).any(|bytes| bytes == text);
        assert!(has(&user_data[..64]) && !has(b"PRIVATE KEY"));
    }
}

#[test]
fn same_input_changes_nothing_and_passphrases_outlive_the_option() {
    let work = encrypted();
    work.userdata();
    let before = work.state("prod");
    work.userdata();
    assert!(work.state("prod") == before);
    let sealed = read(&work, "m0", "user-data");
    let plain = opened(&work, "m0");
    work.topology(PROD);
    work.userdata();
    assert!(read(&work, "m0", "user-data") == plain, "the same document");
    work.topology(&format!("{PROD}document: {{encrypt: passphrase}}\n"));
    work.userdata();
    assert!(
        read(&work, "m0", "user-data") == sealed,
        "the same passphrase"
    );
}

#[test]
fn lost_or_damaged_passphrase_is_an_error() {
    let work = encrypted();
    work.userdata();
    let path = work.path("prod/pki/passphrases/m1.key");
    let text = fs::read(&path).expect("a passphrase");
    let run = || work.run(&["userdata", "--topology", "cluster.yaml"]);
    for damage in [None, Some(b"secret\n" as &[u8])] {
        match damage {
            None => fs::remove_file(&path).expect("removing it"),
            Some(bytes) => fs::write(&path, bytes).expect("damaging it"),
        }
        let before = work.state("prod");
        let output = run();
        assert!(!output.status.success());
        let error = stderr(&output);
        assert!(
            error.contains("passphrases/m1.key") && error.contains("restore"),
            "{error}"
        );
        assert!(!error.contains("secret\n"), "{error}");
        assert!(work.state("prod") == before);
    }
    fs::write(&path, text).expect("restoring it");
    assert!(run().status.success());
}

#[test]
fn age_opens_a_document_and_its_file_is_opened() {
    if !has_age() {
        return;
    }
    let work = encrypted();
    work.userdata();
    let folder = work.path("prod");
    let typed = format!("{}\n", passphrase(&work, "n0"));
    let decrypt = "-d -o ../plain hosts/n0/user-data";
    assert!(!age(&folder, decrypt, "wrong\n"));
    assert!(age(&folder, decrypt, &typed));
    let plain = fs::read(work.path("plain")).expect("what age wrote");
    assert!(plain == opened(&work, "n0"));
    // The default of `age -p`, in letters and binary.
    for letters in ["-a", ""] {
        let encrypt = format!("-p {letters} -o own.age manifest.json");
        assert!(age(&folder, &encrypt, "as I like\nas I like\n"));
        let own = fs::read(folder.join("own.age")).expect("what age wrote");
        let file = Sealed::read(&own, MAX_WORK_FACTOR).expect("an age file");
        let contents = file.open("as I like").expect("the right passphrase");
        let manifest = fs::read(folder.join("manifest.json")).expect("the manifest");
        assert!(contents == manifest);
        assert!(
            Sealed::read(&own, WORK_FACTOR).is_err(),
            "too much work for later boots"
        );
    }
}
