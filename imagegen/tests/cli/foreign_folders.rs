//! Output folders that other users can change, links in them, and input without end.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::refusals::is_root;
use crate::work::{PROD, Work, skip, stderr};

/// The error of `imagegen userdata`, which must change nothing in `prod`.
#[track_caller]
fn refused(work: &Work) -> String {
    let before = work.state("prod");
    let output = work.run(&["userdata", "-t", "cluster.yaml", "-o", "prod"]);
    let printed = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(
        before == work.state("prod"),
        "the folder changed: {printed}"
    );
    let errors = printed
        .lines()
        .filter(|line| line.starts_with("imagegen: "));
    errors.collect::<Vec<_>>().join("\n")
}

#[test]
fn folder_of_another_user_is_refused() {
    if !is_root() {
        return skip("changing the owner needs root");
    }
    let work = Work::new();
    work.userdata();
    std::os::unix::fs::chown(work.path("prod"), Some(12345), None).expect("chown");
    let error = refused(&work);
    assert!(
        error.starts_with("imagegen: `prod` belongs to user 12345, but imagegen runs as user 0;"),
        "{error}"
    );
    // An empty one could get links at any time too.
    fs::remove_dir_all(work.path("prod")).expect("removing");
    fs::create_dir(work.path("prod")).expect("creating");
    std::os::unix::fs::chown(work.path("prod"), Some(12345), None).expect("chown");
    assert!(refused(&work).contains("belongs to user 12345"));
}

#[test]
fn folder_that_all_can_write_to_is_refused() {
    let work = Work::new();
    work.userdata();
    let all = fs::Permissions::from_mode(0o777);
    fs::set_permissions(work.path("prod"), all).expect("chmod");
    let error = refused(&work);
    assert!(
        error.ends_with("every user can write to `prod`; run: chmod o-w prod"),
        "{error}"
    );
}

/// Moves `path` to `elsewhere` and leaves a link in its place.
fn link(work: &Work, path: &str) -> std::path::PathBuf {
    let target = work.path("elsewhere");
    fs::rename(work.path(path), &target).expect("moving");
    symlink(&target, work.path(path)).expect("linking");
    target
}

#[test]
fn links_in_the_folder_are_not_followed() {
    for path in [
        "prod/pki",
        "prod/pki/ca.key",
        "prod/pki/issued.json",
        "prod/hosts",
        "prod/hosts/m0",
        "prod/hosts/m0/user-data",
        "prod/admin.conf",
        "prod/manifest.json",
    ] {
        let work = Work::new();
        work.userdata();
        let target = link(&work, path);
        let readable = if target.is_dir() { 0o755 } else { 0o644 };
        let mode = fs::Permissions::from_mode(readable);
        fs::set_permissions(&target, mode).expect("chmod");
        let state = || match target.is_dir() {
            true => work.state("elsewhere"),
            false => [(
                target.clone(),
                (fs::read(&target).expect("a file"), 0, 0, 0),
            )]
            .into(),
        };
        let before = state();
        work.topology(&PROD.replace("disk: ssd", "disk: hdd"));
        let error = refused(&work);
        assert!(
            error.contains("is or leads through a symbolic link"),
            "{path}: {error}"
        );
        let after = fs::metadata(&target).expect("the target").mode() & 0o777;
        assert_eq!(after, readable, "{path}");
        assert!(before == state(), "{path}");
    }
}

#[test]
fn pipe_in_the_place_of_a_file_does_not_hang() {
    let work = Work::new();
    work.userdata();
    let path: &Path = &work.path("prod/pki/ca.crt");
    fs::remove_file(path).expect("removing");
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.expect("running mkfifo").success());
    let output = work.run(&["userdata", "-t", "cluster.yaml"]);
    let printed = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(
        printed.contains("ca.crt` is not a regular file; remove it"),
        "{printed}"
    );
}

#[test]
fn endless_topology_is_refused() {
    let work = Work::new();
    let output = work.run(&["validate", "-t", "/dev/zero"]);
    let printed = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert_eq!(
        printed,
        "imagegen: reading the topology `/dev/zero`: it is larger than 16 MiB\n"
    );
}
