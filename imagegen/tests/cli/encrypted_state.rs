//! `image: {state: {encrypt: tpm2}}`: its keys in the output folder and in documents.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use userdata::contract::RECOVERY_KEY;

use crate::topology_cases::{findings, only_error};
use crate::work::{PROD, Work, stderr};

const HOSTS: [&str; 4] = ["m0", "m1", "m2", "n0"];

fn image(options: &str) -> String {
    format!("{PROD}image: {{state: {{encrypt: tpm2}}{options}}}\n")
}

fn encrypted() -> Work {
    let work = Work::new();
    work.topology(&image(", secure_boot: {key: db.key, certificate: db.crt}"));
    work.userdata();
    work
}

fn recovery(work: &Work, host: &str) -> String {
    let path = work.path(&format!("prod/pki/state/recovery/{host}.key"));
    let text = fs::read_to_string(path).expect("a recovery key");
    text.trim().to_owned()
}

#[test]
fn unknown_encryption_and_contradictions_are_errors_with_their_place() {
    only_error(
        &format!("{PROD}image: {{state: {{encrypt: luks}}}}\n"),
        "error: unknown encryption of the state `luks`; write `tpm2` or `none`",
    );
    let signed = ", secure_boot: {key: db.key, certificate: db.crt}";
    only_error(
        &image(&format!("{signed}, seeds: all")),
        "every disk would have the recovery keys of all hosts",
    );
    only_error(
        &image(&format!("{signed}, diskless: {{blank_disks: true}}")),
        "boots from the network is not encrypted",
    );
    assert!(findings(&image(signed)).is_empty());
    let unsigned = findings(&image("")).join("\n");
    assert!(
        unsigned.contains("warning: without Secure Boot the TPM protects only a disk away"),
        "{unsigned}"
    );
}

#[test]
fn every_host_has_its_own_recovery_key_in_its_document_only() {
    let work = encrypted();
    for host in HOSTS {
        let path = work.path(&format!("prod/pki/state/recovery/{host}.key"));
        let mode = fs::metadata(path).expect("a recovery key").mode() & 0o777;
        assert_eq!(mode, 0o600);
        let document = work.document(host);
        let file = document
            .cloud_config
            .files
            .iter()
            .find(|file| file.path == RECOVERY_KEY);
        let file = file.expect("the recovery key in the document");
        assert_eq!(file.mode, 0o600);
        let text = String::from_utf8_lossy(file.content.expose())
            .trim()
            .to_owned();
        assert_eq!(text, recovery(&work, host));
        let user_data = work.path(&format!("prod/hosts/{host}/user-data"));
        let user_data = fs::read_to_string(user_data).expect("a document");
        for other in HOSTS {
            let has = user_data.contains(&recovery(&work, other));
            assert_eq!(has, other == host, "{host} and the key of {other}");
        }
        assert!(!user_data.contains("policy"), "{host}");
    }
    // A second run changes nothing.
    let before = HOSTS.map(|host| recovery(&work, host));
    let policy = || fs::read(work.path("prod/pki/state/policy.key")).expect("a key");
    let key = policy();
    work.userdata();
    assert_eq!(before, HOSTS.map(|host| recovery(&work, host)));
    assert_eq!(key, policy());
}

#[test]
fn lost_keys_are_errors_and_not_made_anew() {
    let work = encrypted();
    for (name, why) in [
        ("recovery/m1.key", "opens the state of `m1` without its TPM"),
        ("policy.pub", "no later image opens the state"),
        ("policy.key", "no later image opens the state"),
    ] {
        let path = work.path(&format!("prod/pki/state/{name}"));
        let kept = work.path("kept");
        fs::rename(&path, &kept).expect("moving a key away");
        let output = work.run(&["userdata", "--topology", "cluster.yaml"]);
        let text = stderr(&output);
        assert!(
            !output.status.success() && text.contains(why),
            "{name}: {text}"
        );
        assert!(!path.exists(), "{name}");
        fs::rename(&kept, &path).expect("moving it back");
    }
    // Also while state is not encrypted for a time.
    work.topology(PROD);
    work.userdata();
    fs::remove_file(work.path("prod/pki/state/policy.key")).expect("removing");
    fs::remove_file(work.path("prod/pki/state/policy.pub")).expect("removing");
    work.topology(&image(", secure_boot: {key: db.key, certificate: db.crt}"));
    let output = work.run(&["userdata", "--topology", "cluster.yaml"]);
    let text = stderr(&output);
    assert!(text.contains("no later image opens the state"), "{text}");
}

#[test]
fn documents_without_encryption_have_no_recovery_key() {
    let work = Work::new();
    work.userdata();
    assert!(!work.path("prod/pki/state").exists());
    for host in HOSTS {
        let files = work.document(host).cloud_config.files;
        assert!(files.iter().all(|file| file.path != RECOVERY_KEY));
    }
}
