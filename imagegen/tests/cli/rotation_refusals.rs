//! What `imagegen pki rotate` refuses, and that an interrupted phase is completed first.

use std::fs;

use serde_json::{Value, json};

use crate::rotation::{EXPEL, advance, cluster, next, run};
use crate::work::{Work, stderr};

const ROTATE: [&str; 4] = ["pki", "rotate", "-t", "cluster.yaml"];

/// The message of a run that fails and leaves the folder as it is.
fn refused(work: &Work, args: &[&str]) -> String {
    let before = work.state("prod");
    let output = work.run(&[&ROTATE[..], args].concat());
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    assert_eq!(work.state("prod"), before, "{args:?}");
    stderr(&output)
}

#[test]
fn only_workers_of_the_topology_are_expelled_and_only_before_phase_2() {
    let work = Work::new();
    let output = work.run(&EXPEL);
    assert_eq!(output.status.code(), Some(1));
    let work = cluster();
    for (args, why) in [
        (&["--next", "--unchecked"][..], "is in no rotation"),
        (&["--expel", "n7"], "m0, m1, m2, n0, n1"),
        (&["--expel", "m1"], "a new cluster"),
    ] {
        let text = refused(&work, args);
        assert!(text.contains(why), "{text}");
    }
    let wrong = work.run(&[&ROTATE[..], &["--next"]].concat());
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        stderr(&wrong).contains("--status FILE"),
        "{}",
        stderr(&wrong)
    );

    run(&work, &[&ROTATE[..], &["--start"]].concat());
    // Phase 1 takes more hosts, phase 2 none: they have their certificates then.
    run(&work, &EXPEL);
    advance(&work);
    let text = refused(&work, &["--expel", "n0"]);
    assert!(text.contains("finish this rotation"), "{text}");
    assert!(run(&work, &EXPEL).contains("phase 2 of 3"));
}

#[test]
fn own_authority_of_the_apiserver_is_refused() {
    let work = cluster();
    let text = fs::read_to_string(work.path("cluster.yaml")).expect("the topology");
    let own = "kubernetes: { apiserver_args: { client-ca-file: /etc/x.crt } }\n";
    work.topology(&format!("{text}{own}"));
    work.userdata();
    let text = refused(&work, &["--start"]);
    assert!(text.contains("client-ca-file"), "{text}");
}

#[test]
fn next_phase_needs_every_host_with_its_document() {
    let work = cluster();
    run(&work, &EXPEL);
    let ready = |host: &str, generation: u64, phase: &str| {
        let document = json!({ "generation": generation });
        json!({ "host": host, "status": { "phase": phase, "document": document } })
    };
    let lines = [
        ready("m0", 1, "ready"),
        ready("m1", 2, "working"),
        json!({ "host": "m2", "error": "timed out" }),
        ready("n1", 1, "ready"),
    ];
    let before = work.state("prod");
    let output = next(&work, &lines);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    for line in [
        "m0: has document 1 of 2",
        "m1: is not ready but working",
        "m2: timed out",
        "n0: the statuses do not have it",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(!text.contains("n1: "), "{text}");
    assert_eq!(work.state("prod"), before);
    fs::write(work.path("status.json"), "m0 ready").expect("writing");
    let text = refused(&work, &["--next", "--status", "status.json"]);
    assert!(text.contains("firstboot status --all --json"), "{text}");
}

/// imagegen publishes `pki/` before the documents. A run that ended between them has begun the
/// phase, and no host has it.
#[test]
fn interrupted_phase_is_completed_and_not_skipped() {
    let work = cluster();
    run(&work, &EXPEL);
    let keep = |folder: &str| {
        let status = std::process::Command::new("cp")
            .args(["-a", "prod", folder])
            .current_dir(work.path(""))
            .status();
        assert!(status.expect("running cp").success());
    };
    keep("phase-1");
    advance(&work);
    keep("phase-2");
    // As after a kill: `pki/` of phase 2, everything else of phase 1.
    fs::remove_dir_all(work.path("prod")).expect("removing");
    fs::rename(work.path("phase-1"), work.path("prod")).expect("moving");
    fs::remove_dir_all(work.path("prod/pki")).expect("removing");
    fs::rename(work.path("phase-2/pki"), work.path("prod/pki")).expect("moving");
    let output = work.run(&[&ROTATE[..], &["--next", "--unchecked"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("were not up to date"), "{text}");
    assert!(run(&work, &ROTATE).contains("phase 2 of 3"));
    let contents = |folder: &str| -> Vec<_> {
        let state = work.state(folder).into_iter();
        state.map(|(path, (bytes, ..))| (path, bytes)).collect()
    };
    fs::remove_dir_all(work.path("phase-2")).unwrap_or_default();
    let completed = contents("prod");
    assert!(work.userdata().contains("nothing to do"));
    assert_eq!(contents("prod"), completed);
    advance(&work);
    assert!(run(&work, &ROTATE).contains("phase 3 of 3"));
}

#[test]
fn lost_files_of_a_rotation_are_errors_and_never_made_again() {
    for file in [
        "rotation.json",
        "clients-ca-next.crt",
        "clients-ca-next.key",
    ] {
        let work = cluster();
        run(&work, &EXPEL);
        fs::remove_file(work.path(&format!("prod/pki/{file}"))).expect("removing");
        let text = refused(&work, &["--next", "--unchecked"]);
        assert!(text.contains("restore"), "{file}: {text}");
        let output = work.run(&["userdata", "-t", "cluster.yaml"]);
        assert_eq!(output.status.code(), Some(1), "{file}");
    }
    // All of them together leave the manifest, which lists them.
    let work = cluster();
    run(&work, &EXPEL);
    for file in [
        "rotation.json",
        "clients-ca-next.crt",
        "clients-ca-next.key",
    ] {
        fs::remove_file(work.path(&format!("prod/pki/{file}"))).expect("removing");
    }
    let output = work.run(&["userdata", "-t", "cluster.yaml"]);
    let text = stderr(&output);
    assert!(text.contains("rotation.json` is gone"), "{text}");
}

#[test]
fn pki_status_shows_both_authorities() {
    let work = cluster();
    run(&work, &EXPEL);
    let entries = |work: &Work| -> Vec<Value> {
        let text = run(work, &["pki", "status", "-o", "prod", "--json"]);
        serde_json::from_str(&text).expect("JSON")
    };
    let holder = |entries: &[Value], name: &str| {
        let entry = entries.iter().find(|one| one["name"] == name);
        entry.map(|one| one["holder"].as_str().unwrap_or_default().to_owned())
    };
    let first = entries(&work);
    assert!(holder(&first, "ca").is_some());
    let next = holder(&first, "clients-ca-next");
    assert_eq!(
        next.as_deref(),
        Some("every host; its key: this folder only")
    );
    assert!(first.iter().all(|one| one["holder"] != "n1"));
    advance(&work);
    let next = holder(&entries(&work), "clients-ca-next");
    assert_eq!(next.as_deref(), Some("every host; its key: masters"));
    let text = run(&work, &["pki", "status", "-o", "prod"]);
    assert!(text.contains("rotation: phase 2 of 3"), "{text}");
}
