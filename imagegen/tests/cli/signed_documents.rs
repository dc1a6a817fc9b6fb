//! Documents and reset tokens are signed for one host each, and counted.

use std::fs;
use std::path::Path;
use std::process::Command;

use userdata::signature::{self, Files, Kind, Signature};

use crate::work::{PROD, Work, stderr};

fn signature(work: &Work, host: &str) -> Signature {
    let read = |name: &str| fs::read(work.path(&format!("prod/hosts/{host}/{name}")));
    let user_data = read("user-data").expect("a document");
    let (meta_data, network) = (read("meta-data"), read("network-config"));
    let files = Files {
        user_data: &user_data,
        meta_data: &meta_data.expect("meta-data"),
        network_config: Some(&network.expect("network-config")),
        vendor_data: None,
    };
    signature::read(&files)
        .expect("a signature in its place")
        .expect("a signature")
}

fn generations(work: &Work) -> [u64; 4] {
    ["m0", "m1", "m2", "n0"].map(|host| signature(work, host).claims.generation)
}

/// Whether openssl accepts `signed` for its statement.
fn openssl_accepts(folder: &Path, public: &Path, signed: &Signature) -> bool {
    fs::write(folder.join("statement"), signed.statement()).expect("a file");
    fs::write(folder.join("signature"), signed.signature).expect("a file");
    let output = Command::new("openssl")
        .args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"])
        .arg(public)
        .args(["-in", "statement", "-sigfile", "signature"])
        .current_dir(folder)
        .output()
        .expect("running openssl (Debian: openssl)");
    output.status.success()
}

#[test]
fn openssl_verifies_each_document_by_the_key_of_the_cluster() {
    let work = Work::new();
    work.userdata();
    let public = work.path("prod/pki/document.pub");
    for host in ["m0", "m1", "m2", "n0"] {
        let mut signed = signature(&work, host);
        assert_eq!(signed.kind, Kind::Document);
        let claims = (signed.claims.cluster.as_str(), signed.claims.host.as_str());
        assert_eq!(claims, ("prod", host));
        assert!(openssl_accepts(&work.path(""), &public, &signed), "{host}");
        signed.claims.host = "m9".to_owned();
        assert!(!openssl_accepts(&work.path(""), &public, &signed), "{host}");
    }
}

#[test]
fn generation_counts_the_changed_documents_of_each_host() {
    let work = Work::new();
    work.userdata();
    assert_eq!(generations(&work), [1; 4]);
    work.topology(&PROD.replace("disk: ssd", "disk: nvme"));
    work.userdata();
    assert_eq!(generations(&work), [1, 1, 1, 2]);
    assert!(work.userdata().contains("nothing to do"));
    work.topology(&PROD.replace("ntp: []", "ntp: [192.0.2.1]"));
    work.userdata();
    assert_eq!(generations(&work), [2, 2, 2, 3]);
    // A host that comes back continues: its machine may remember the last number.
    let line = PROD
        .lines()
        .find(|line| line.contains("name: n0"))
        .expect("the line of n0");
    work.topology(&PROD.replace(line, ""));
    work.userdata();
    work.topology(PROD);
    work.userdata();
    let [.., n0] = generations(&work);
    assert_eq!(n0, 4);
}

#[test]
fn private_half_is_in_no_document_and_its_loss_is_an_error() {
    let work = Work::new();
    work.userdata();
    let key = fs::read_to_string(work.path("prod/pki/document.key")).expect("the key");
    let body = key.lines().nth(1).expect("base64");
    for host in ["m0", "m1", "m2", "n0"] {
        let text = fs::read_to_string(work.path(&format!("prod/hosts/{host}/user-data")));
        assert!(!text.expect("a document").contains(body), "{host}");
    }
    fs::remove_file(work.path("prod/pki/document.key")).expect("removing the key");
    let output = work.run(&["userdata", "-t", "cluster.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("document.pub` exists, but") && text.contains("restore it"),
        "{text}"
    );
    let work = Work::new();
    work.userdata();
    fs::write(work.path("prod/pki/documents.json"), "{").expect("a damaged file");
    let output = work.run(&["userdata", "-t", "cluster.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("restore the file"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn reset_token_is_signed_for_its_host_and_newer_than_its_document() {
    let work = Work::new();
    let token = |host: &str| work.run(&["reset-token", "-t", "cluster.yaml", "--host", host]);
    let output = token("m1");
    assert_eq!(output.status.code(), Some(1), "no documents yet");
    assert!(
        stderr(&output).contains("imagegen userdata"),
        "{}",
        stderr(&output)
    );
    work.userdata();
    let output = token("m7");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("m0, m1, m2, n0"),
        "{}",
        stderr(&output)
    );
    for number in [2, 3] {
        let output = token("m1");
        assert!(output.status.success(), "{}", stderr(&output));
        let image = fs::read(work.path("prod/reset-m1.img")).expect("the token");
        let at = image
            .windows(17)
            .position(|bytes| bytes == b"#firstlight-reset")
            .expect("the token in the image");
        let len = image[at..]
            .iter()
            .position(|byte| *byte == 0)
            .expect("its end");
        let meta_data = fs::read(work.path("prod/hosts/m1/meta-data")).expect("meta-data");
        let files = Files {
            user_data: &image[at..at + len],
            meta_data: &meta_data,
            network_config: None,
            vendor_data: None,
        };
        let signed = signature::read(&files).expect("whole").expect("signed");
        assert_eq!(
            (signed.kind, signed.claims.generation),
            (Kind::Reset, number)
        );
        let public = work.path("prod/pki/document.pub");
        assert!(openssl_accepts(&work.path(""), &public, &signed));
    }
    // A token changes no document, and the next document is newer than the token.
    assert!(work.userdata().contains("nothing to do"));
    work.topology(&PROD.replace("ntp: []", "ntp: [192.0.2.1]"));
    work.userdata();
    assert_eq!(generations(&work), [2, 4, 2, 2]);
}
