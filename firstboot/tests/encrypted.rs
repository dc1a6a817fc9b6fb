//! A document that is encrypted with a passphrase: opened in memory, never written to the log, and
//! nothing is changed by a wrong one.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

mod common;

use std::fs;

use age_file::seal;
use assert_cmd::Command;
use firstboot::trust::record::{COPY, PATH};

use common::signed::{Machine, document};

const PASSPHRASE: &str = "cbdefghi-jklnrtuv-cbdefghi-jklnrtuv";
const OTHER: &str = "vutrnlkj-ihgfedbc-vutrnlkj-ihgfedbc";

/// As the hypervisor gives it; `None` takes it away.
fn give(machine: &Machine, passphrase: Option<&str>) {
    let folder = machine.root.path().join("run/credentials/@system");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("firstlight.document-passphrase");
    match passphrase {
        Some(text) => fs::write(path, format!("{text}\n")).unwrap(),
        None => fs::remove_file(path).unwrap(),
    }
}

/// A machine with generation 5 of `m0`, which it opened with [`PASSPHRASE`], and the credential
/// taken away.
fn installed() -> Machine {
    let mut machine = Machine::new();
    give(&machine, Some(PASSPHRASE));
    machine.attach(&[&seal(document("m0", 5, "five").as_bytes(), PASSPHRASE)]);
    machine.boot().unwrap();
    assert_eq!(machine.motd(), "five");
    give(&machine, None);
    machine
}

#[test]
fn passphrase_opens_the_first_document_and_later_ones_of_the_same() {
    let mut machine = installed();
    assert_eq!(machine.record().signer.unwrap().generation, 5);
    // The seed is still there: the next boot asks for nothing.
    let before = machine.files();
    machine.boot().unwrap();
    assert_eq!(machine.files(), before);
    assert_eq!(machine.found().same.len(), 1);
    machine.attach(&[&seal(document("m0", 6, "six").as_bytes(), PASSPHRASE)]);
    machine.boot().unwrap();
    assert_eq!(machine.motd(), "six");
    machine.attach(&[&document("m0", 7, "seven")]);
    machine.boot().unwrap();
    assert_eq!(machine.motd(), "seven");
    // A plain document in between takes nothing away.
    machine.attach(&[&seal(document("m0", 8, "eight").as_bytes(), PASSPHRASE)]);
    machine.boot().unwrap();
    assert_eq!(machine.motd(), "eight");
}

#[test]
fn later_document_of_another_passphrase_needs_the_credential() {
    let mut machine = installed();
    let eight = seal(document("m0", 8, "eight").as_bytes(), OTHER);
    machine.attach(&[&eight]);
    machine.boot().unwrap();
    assert_eq!(machine.motd(), "five");
    let reason = machine.refusal();
    assert!(
        reason.contains("a passphrase that this machine does not know")
            && reason.contains("firstboot reset"),
        "{reason}"
    );
    give(&machine, Some(OTHER));
    machine.boot().unwrap();
    assert_eq!(machine.motd(), "eight");
    // Encryption is no signature.
    let foreign = seal(b"#cloud-config\nhostname: other\n", OTHER);
    machine.attach(&[&foreign]);
    let reason = machine.refusal();
    assert!(reason.contains("has no signature"), "{reason}");
    // A disk of a stranger costs no gigabytes.
    let binary = "age-encryption.org/v1\n-> scrypt rF0/NwblUHHTpgQgRpe5CQ 18\n\
        gUjEymFKMVXQEKdMMHL24oYexjE3TIC0O0zGSqJ2aUY\n\
        --- IOXiQYStkoT1mvZW2tFOqZdhRVvj58egABx/sWfZQbc\n";
    machine.attach(&[binary]);
    let reason = machine.refusal();
    assert!(reason.contains("work factor is 18"), "{reason}");
}

#[test]
fn same_file_beside_changed_meta_data_is_refused() {
    let machine = installed();
    let path = machine.disks[0].path().join("vendor-data");
    fs::write(path, "#cloud-config\n").unwrap();
    let reason = machine.refusal();
    assert!(reason.contains("was changed after"), "{reason}");
}

#[test]
fn wrong_missing_or_useless_passphrase_changes_nothing() {
    let right = seal(document("m0", 1, "one").as_bytes(), PASSPHRASE);
    let cut = &right[..right.len() / 2];
    let edited = right.replacen("\nYWdl", "\nYWdm", 1);
    assert_ne!(edited, right);
    let unknown = "age-encryption.org/v1\n-> X25519 TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc\n";
    let costly = "age-encryption.org/v1\n-> scrypt rF0/NwblUHHTpgQgRpe5CQ 30\n\
        gUjEymFKMVXQEKdMMHL24oYexjE3TIC0O0zGSqJ2aUY\n\
        --- IOXiQYStkoT1mvZW2tFOqZdhRVvj58egABx/sWfZQbc\n";
    for (text, passphrase, why) in [
        (right.as_str(), Some(OTHER), "does not open it"),
        (
            &right,
            None,
            "no credential is called `firstlight.document-passphrase`",
        ),
        (cut, Some(PASSPHRASE), "its end is missing"),
        (&edited, Some(PASSPHRASE), "its header cannot be read"),
        (unknown, Some(PASSPHRASE), "a key of the kind `X25519`"),
        (costly, Some(PASSPHRASE), "work factor is 30"),
    ] {
        let mut machine = Machine::new();
        if passphrase.is_some() {
            give(&machine, passphrase);
        }
        machine.attach(&[text]);
        let before = machine.files();
        let error = format!("{:#}", machine.boot().unwrap_err());
        assert!(error.contains(why), "`{why}` is not in: {error}");
        assert!(error.contains("nothing was changed"), "{error}");
        assert_eq!(machine.files(), before, "{error}");
    }
}

#[test]
fn program_says_nothing_of_passphrase_and_contents() {
    let machine = Machine::new();
    let seed = tempfile::tempdir().unwrap();
    let secret = "kept-in-the-document";
    let text = format!("#cloud-config\nwrite_files:\n- {{path: /etc/motd, content: {secret}}}\n");
    fs::write(
        seed.path().join("user-data"),
        seal(text.as_bytes(), PASSPHRASE),
    )
    .unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("firstboot"));
        command.arg("--root").arg(machine.root.path());
        command.arg("--seed").arg(seed.path()).args(arguments);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    give(&machine, Some(OTHER));
    for arguments in [&[] as &[&str], &["--plan"]] {
        let (code, said) = run(arguments);
        assert!(
            code != Some(0) && said.contains("does not open it"),
            "{said}"
        );
        assert!(!said.contains(OTHER), "{said}");
    }
    give(&machine, Some(PASSPHRASE));
    for arguments in [&["--plan"] as &[&str], &[]] {
        let (code, said) = run(arguments);
        assert_eq!(code, Some(0), "{said}");
        assert!(
            !said.contains(PASSPHRASE) && !said.contains(secret),
            "{said}"
        );
    }
    assert_eq!(machine.motd(), secret);
}

#[test]
fn only_root_reads_the_record_with_the_passphrase() {
    use std::os::unix::fs::PermissionsExt as _;
    let machine = installed();
    for path in [PATH, COPY] {
        let path = machine.root.path().join(path.trim_start_matches('/'));
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert!(fs::read_to_string(path).unwrap().contains(PASSPHRASE));
    }
    assert!(!format!("{:?}", machine.record()).contains(PASSPHRASE));
}
