//! A machine obeys its first document, and later ones only with a signature for it.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

mod common;

use std::fs;

use assert_cmd::Command;
use firstboot::trust;
use firstboot::trust::record::{self, Phase};
use ring::signature::Ed25519KeyPair;
use userdata::signature::{Claims, Kind, RESET_MARK, SCRUBBED_MARK};

use common::signed::{Machine, TAKEOVER, claims, document, installed, key, signed};

#[test]
fn foreign_disks_change_nothing_and_do_not_stop_the_boot() {
    let mut machine = installed();
    let before = machine.files();
    machine.attach(&[TAKEOVER, TAKEOVER, "#!/bin/sh\nreboot\n", "{", ""]);
    machine.boot().unwrap();
    assert_eq!(machine.files(), before);
    let refused = machine.found().refused;
    assert_eq!(refused.len(), 5, "{refused:?}");
    for (_, reason) in &refused {
        assert!(reason.contains("has no signature"), "{reason}");
    }
}

#[test]
fn seed_may_be_gone_wiped_or_torn() {
    let mut machine = installed();
    let before = machine.files();
    let torn = format!("{SCRUBBED_MARK}hostname: m0\n");
    for disks in [&[] as &[&str], &[""], &[SCRUBBED_MARK], &[&torn]] {
        machine.attach(disks);
        machine.boot().unwrap();
        assert_eq!(machine.files(), before, "{disks:?}");
    }
}

#[test]
fn newer_document_for_this_host_is_taken_and_older_ones_no_more() {
    let mut machine = installed();
    let (six, seven) = (document("m0", 6, "six"), document("m0", 7, "seven"));
    // The newest of all disks, among foreign ones.
    machine.attach(&[&six, TAKEOVER, &seven]);
    machine.boot().unwrap();
    assert_eq!(machine.motd(), "seven");
    assert_eq!(machine.record().signer.unwrap().generation, 7);
    machine.attach(&[&six]);
    machine.boot().unwrap();
    assert_eq!(machine.motd(), "seven");
    let reason = machine.refusal();
    assert!(reason.contains("generation 6 is older than 7"), "{reason}");
    machine.attach(&[&document("m0", 7, "other")]);
    let reason = machine.refusal();
    assert!(
        reason.contains("differs") && reason.contains("the same generation 7"),
        "{reason}"
    );
    machine.attach(&[&seven]);
    assert_eq!(machine.found().same.len(), 1);
}

#[test]
fn document_of_another_host_cluster_or_key_is_refused_by_name() {
    let mut machine = installed();
    let body = "#cloud-config\nhostname: m0\n";
    let of_cluster = Claims {
        cluster: "dev".to_owned(),
        ..claims("m0", 9)
    };
    let cases = [
        (
            document("m1", 9, "x"),
            "it is for `m1` of the cluster `prod`, but this machine is `m0`",
        ),
        (
            signed(Kind::Document, &key(1), &of_cluster, body),
            "of the cluster `dev`",
        ),
        (
            signed(Kind::Document, &key(2), &claims("m0", 9), body),
            "but this machine obeys sha256:",
        ),
        (
            document("m0", 9, "x").replace("content: x", "content: y"),
            "was changed after imagegen signed",
        ),
        (
            document("m0", 8, "x").replace("generation=8", "generation=9"),
            "was changed after imagegen signed",
        ),
        (
            document("m0", 9, "x") + "bootcmd: [id]\n",
            "not its last line",
        ),
    ];
    for (text, why) in cases {
        machine.attach(&[&text]);
        machine.boot().unwrap();
        assert_eq!(machine.motd(), "five");
        let reason = machine.refusal();
        assert!(reason.contains(why), "`{why}` is not in: {reason}");
    }
    // A file beside it counts too.
    machine.attach(&[&document("m0", 9, "x")]);
    fs::write(
        machine.disks[0].path().join("vendor-data"),
        "#cloud-config\n",
    )
    .unwrap();
    let reason = machine.refusal();
    assert!(reason.contains("was changed after"), "{reason}");
}

#[test]
fn newer_document_that_this_image_cannot_apply_is_refused() {
    let mut machine = installed();
    let broken = signed(
        Kind::Document,
        &key(1),
        &claims("m0", 9),
        "#cloud-config\nhostnome: m0\n",
    );
    machine.attach(&[&broken]);
    machine.boot().unwrap();
    assert_eq!(machine.record().signer.unwrap().generation, 5);
}

#[test]
fn edited_document_is_refused_on_the_first_boot() {
    let mut machine = Machine::new();
    machine.attach(&[&document("m0", 1, "one").replace("motd", "issue")]);
    let before = machine.files();
    let error = format!("{:#}", machine.boot().unwrap_err());
    assert!(
        error.contains("was changed after imagegen signed") && error.contains("remove the line"),
        "{error}"
    );
    assert_eq!(machine.files(), before);
}

#[test]
fn document_without_signature_is_taken_on_the_first_boot_only() {
    let mut machine = Machine::new();
    let plain = "#cloud-config\nhostname: m0\nwrite_files: [{path: /etc/motd, content: plain}]\n";
    machine.attach(&[plain]);
    machine.boot().unwrap();
    assert_eq!(machine.motd(), "plain");
    machine.attach(&[plain]);
    assert_eq!(machine.found().same.len(), 1);
    machine.attach(&[&plain.replace("plain", "other")]);
    machine.boot().unwrap();
    assert_eq!(machine.motd(), "plain");
    machine.attach(&[&document("m0", 9, "signed")]);
    let reason = machine.refusal();
    assert!(
        reason.contains("first document had no signature") && reason.contains("firstboot reset"),
        "{reason}"
    );
}

#[test]
fn interrupted_first_boot_resumes_its_document_and_no_other() {
    let mut machine = installed();
    let mut record = machine.record();
    record.phase = Phase::Pending;
    record.save(&machine.root()).unwrap();
    machine.attach(&[TAKEOVER]);
    machine.boot().unwrap();
    assert_eq!(machine.record().phase, Phase::Applied);
    assert_eq!(machine.motd(), "five");
}

#[test]
fn damaged_record_takes_no_document() {
    let mut machine = installed();
    for path in [record::PATH, record::COPY] {
        let path = machine.root().join(path);
        fs::write(path, "torn").unwrap();
    }
    machine.attach(&[&document("m0", 9, "nine")]);
    let error = format!("{:#}", machine.boot().unwrap_err());
    assert!(error.contains("run `firstboot reset`"), "{error}");
    assert_eq!(machine.motd(), "five");
    trust::reset(&machine.root()).unwrap();
    machine.boot().unwrap();
    assert_eq!(machine.motd(), "nine");
}

#[test]
fn reset_lets_any_document_in_again() {
    let mut machine = installed();
    let root = machine.root.path();
    let mut command = Command::cargo_bin("firstboot").unwrap();
    let output = command
        .args(["reset", "--root"])
        .arg(root)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && text.contains("generation 5 for `m0` of `prod`"),
        "{text}"
    );
    machine.attach(&["#cloud-config\nhostname: other\n"]);
    machine.boot().unwrap();
    assert_eq!(machine.record().signer, None);
}

#[test]
fn reset_token_works_once_and_for_its_host() {
    let token = |key: &Ed25519KeyPair, host, number| {
        signed(Kind::Reset, key, &claims(host, number), RESET_MARK)
    };
    let mut machine = installed();
    for (text, why) in [
        (token(&key(1), "m1", 9), "it is for `m1`"),
        (token(&key(2), "m0", 9), "but this machine obeys"),
        (token(&key(1), "m0", 5), "takes one above 5"),
        (
            token(&key(1), "m0", 8).replace("=8", "=9"),
            "was changed after",
        ),
    ] {
        machine.attach(&[&text]);
        machine.boot().unwrap();
        let reason = machine.refusal();
        assert!(reason.contains(why), "`{why}` is not in: {reason}");
    }
    let six = token(&key(1), "m0", 6);
    let other = document("m0", 2, "two");
    // The other document is older, and is the first one now.
    machine.attach(&[&six, &other]);
    machine.boot().unwrap();
    assert_eq!(machine.motd(), "two");
    machine.attach(&[&six]);
    machine.boot().unwrap();
    let reason = machine.refusal();
    assert!(reason.contains("takes one above 6"), "{reason}");
    assert_eq!(machine.motd(), "two");
}

#[test]
fn machine_without_document_does_not_take_a_token_or_a_scrubbed_seed_for_one() {
    let mut machine = Machine::new();
    for (text, why) in [
        (
            signed(Kind::Reset, &key(1), &claims("m0", 1), RESET_MARK),
            "reset token",
        ),
        (SCRUBBED_MARK.to_owned(), "secrets were removed"),
    ] {
        machine.attach(&[&text]);
        let error = format!("{:#}", machine.boot().unwrap_err());
        assert!(error.contains(why), "{error}");
    }
}
