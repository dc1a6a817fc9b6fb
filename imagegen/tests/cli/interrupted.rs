//! Results are complete after a kill at any moment, or without space.
#![allow(
    clippy::disallowed_methods,
    reason = "tests may write files and run programs directly"
)]

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::work::{PROD, Work, skip};

/// Kills one run after another, each at a later moment, while the topology changes.
#[test]
fn kill_at_any_moment_leaves_complete_results() {
    let work = Work::new();
    let mut ca: Option<Vec<u8>> = None;
    let mut killed = 0;
    for round in 0..40_u64 {
        work.topology(&PROD.replace("disk: ssd", &format!("disk: d{round}")));
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("imagegen"))
            .args(["userdata", "-t", "cluster.yaml"])
            .current_dir(work.path(""))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting imagegen");
        std::thread::sleep(Duration::from_millis(round * 4));
        child.kill().expect("killing imagegen");
        killed += u32::from(!child.wait().expect("waiting for imagegen").success());
        if !work.path("prod/hosts").exists() {
            continue;
        }
        // With one document, all documents and their CA must exist.
        let found = fs::read(work.path("prod/pki/ca.crt")).expect("documents without their CA");
        assert_eq!(
            *ca.get_or_insert(found.clone()),
            found,
            "round {round}: the CA was replaced"
        );
        let label = |host: &str| {
            work.document(host)
                .node
                .expect("a node file")
                .labels
                .get("disk")
                .cloned()
        };
        assert!(
            label("n0").is_some_and(|label| label.starts_with('d')),
            "round {round}"
        );
        for host in ["m0", "m1", "m2", "n0"] {
            let seed = fs::read(work.path(&format!("prod/hosts/{host}/seed.img"))).expect("a seed");
            let user_data =
                fs::read(work.path(&format!("prod/hosts/{host}/user-data"))).expect("user-data");
            assert!(
                seed.windows(512)
                    .any(|window| user_data.starts_with(window)),
                "round {round}: the seed of {host} has another document"
            );
        }
    }
    assert!(killed > 0, "no run was killed: the test tested nothing");
    work.userdata();
    assert!(work.userdata().contains("nothing to do"));
    let names: Vec<_> = fs::read_dir(work.path("prod"))
        .expect("the folder")
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(
        !names
            .iter()
            .any(|name| name.to_string_lossy().starts_with('.')),
        "leftovers: {names:?}"
    );
}

#[test]
fn full_disk_is_one_error_and_leaves_nothing() {
    let work = Work::new();
    fs::create_dir(work.path("small")).expect("a folder");
    let script = "mount -t tmpfs -o size=100k none small || exit 99
        \"$0\" userdata -t cluster.yaml -o small/out; echo \"status $?\"; ls -A small";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(assert_cmd::cargo::cargo_bin!("imagegen"))
        .current_dir(work.path(""))
        .output();
    let Ok(output) = output else {
        return skip("unshare(1) is missing");
    };
    let (printed, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if !printed.contains("status") {
        return skip(&format!("mounting failed: {errors}"));
    }
    assert_eq!(printed, "status 1\n", "{errors}");
    assert!(
        errors.contains("No space left on device")
            && errors.contains("imagegen: writing `small/out/"),
        "{errors}"
    );
}
