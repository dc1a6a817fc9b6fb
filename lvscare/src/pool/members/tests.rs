//! Files, caches and discovered lists, in every order.

use std::fs;

use super::*;

fn server(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 6443))
}

fn sources(folder: &tempfile::TempDir) -> Sources {
    Sources {
        service: SocketAddr::from(([10, 103, 97, 2], 6443)),
        scheduler: "rr".to_owned(),
        seed: "n".to_owned(),
        flags: vec![server(1), server(2)],
        file: None,
        cache: Some(folder.path().join("deep/members.json")),
    }
}

fn listed(members: &Members) -> Vec<SocketAddr> {
    let mut listed: Vec<_> = members
        .list(Instant::now())
        .into_iter()
        .map(|(at, _)| at)
        .collect();
    listed.sort();
    listed
}

#[test]
fn list_is_rotated_per_node_without_duplicates() {
    let folder = tempfile::tempdir().unwrap();
    let first = |seed: &str| {
        let flags = vec![server(1), server(2), server(3), server(2)];
        let members = Members::new(Sources {
            flags,
            seed: seed.to_owned(),
            ..sources(&folder)
        });
        let list = members.unwrap().list(Instant::now());
        assert_eq!(list.len(), 3);
        list[0].0
    };
    let firsts: std::collections::BTreeSet<_> =
        (0..20).map(|n| first(&format!("node{n}"))).collect();
    assert_eq!(firsts.len(), 3);
}

#[test]
fn live_list_is_added_to_the_seeds_and_cached() {
    let folder = tempfile::tempdir().unwrap();
    let mut members = Members::new(sources(&folder)).unwrap();
    assert!(members.on_discovered(vec![server(3), server(2)]));
    assert!(
        !members.on_discovered(vec![server(2), server(3)]),
        "the same in another order"
    );
    assert_eq!(listed(&members), [server(1), server(2), server(3)]);
    let again = Members::new(sources(&folder)).unwrap();
    assert_eq!(listed(&again), [server(1), server(2), server(3)]);
    assert_eq!(again.counts()["cache"], 2);
    assert_eq!(
        fs::read_dir(folder.path().join("deep")).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[test]
fn live_list_replaces_the_cached_list_but_not_the_seeds() {
    let folder = tempfile::tempdir().unwrap();
    Members::new(sources(&folder))
        .unwrap()
        .on_discovered(vec![server(3)]);
    let mut members = Members::new(sources(&folder)).unwrap();
    members.on_discovered(vec![server(4)]);
    assert_eq!(listed(&members), [server(1), server(2), server(4)]);
}

#[test]
fn empty_or_unusable_live_list_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let mut members = Members::new(sources(&folder)).unwrap();
    members.on_discovered(vec![server(3)]);
    assert!(!members.on_discovered(Vec::new()));
    let strange = [
        "[fd00::1]:6443",
        "10.103.97.2:6443",
        "0.0.0.0:1",
        "10.0.0.9:0",
        "127.0.0.1:6443",
    ];
    assert!(!members.on_discovered(strange.map(|text| text.parse().unwrap()).to_vec()));
    assert_eq!(listed(&members), [server(1), server(2), server(3)]);
}

#[test]
fn a_spoilt_cache_is_passed_over_and_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = sources(&folder).cache.unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    for spoilt in [
        &b"{\"members\":[\"10.0."[..],
        b"",
        b"\xff\xfe\0",
        b"[1,2]",
        b"{\"members\":[\"x\"]}",
    ] {
        fs::write(&path, spoilt).unwrap();
        let mut members = Members::new(sources(&folder)).unwrap();
        assert_eq!(listed(&members), [server(1), server(2)], "{spoilt:?}");
        members.on_discovered(vec![server(3)]);
        assert_eq!(
            listed(&Members::new(sources(&folder)).unwrap()).len(),
            3,
            "{spoilt:?}"
        );
    }
}

#[test]
fn without_discovery_nothing_is_cached_or_adopted() {
    let folder = tempfile::tempdir().unwrap();
    Members::new(sources(&folder))
        .unwrap()
        .on_discovered(vec![server(3)]);
    let mut members = Members::new(Sources {
        cache: None,
        ..sources(&folder)
    })
    .unwrap();
    assert!(!members.adopt([server(4)].into_iter(), Instant::now()));
    assert_eq!(listed(&members), [server(1), server(2)]);
}

#[test]
fn table_is_adopted_without_a_cache_until_a_list_or_expiry() {
    let folder = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut members = Members::new(sources(&folder)).unwrap();
    assert!(members.adopt([server(4)].into_iter(), now));
    assert!(!members.adopt([server(5)].into_iter(), now), "only once");
    assert_eq!(listed(&members).len(), 3);
    assert_eq!(members.list(now + ADOPTED).len(), 2);
    members.on_discovered(vec![server(1)]);
    assert_eq!(listed(&members), [server(1), server(2)]);
}

#[test]
fn changed_yaml_or_json_file_is_reloaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lvscare.yaml");
    fs::write(
        &path,
        "rs:\n- 10.0.0.7:6443 # the first\n- \"10.0.0.8:6443\"\n",
    )
    .unwrap();
    let from_file = Sources {
        flags: Vec::new(),
        file: Some(path.clone()),
        ..sources(&folder)
    };
    let mut members = Members::new(from_file).unwrap();
    assert_eq!(listed(&members), [server(7), server(8)]);
    assert!(!members.reread().unwrap());
    fs::write(&path, r#"{"rs": ["10.0.0.9:6443"]}"#).unwrap();
    assert!(members.reread().unwrap());
    assert_eq!(listed(&members), [server(9)]);
    for (wrong, word) in [
        ("rs: [10.0.0.1:6443", "line"),
        ("rs: []", "names no real server"),
        ("rs: [10.103.97.2:6443]", "itself"),
        ("sr: [10.0.0.1:6443]", "unknown field"),
        ("rs: [master-1:6443]", "socket address"),
    ] {
        fs::write(&path, wrong).unwrap();
        let error = format!("{:#}", members.reread().unwrap_err());
        assert!(error.contains(word), "{wrong}: {error}");
        assert!(!members.reread().unwrap(), "said once: {wrong}");
        assert_eq!(listed(&members), [server(9)], "{wrong}");
    }
    fs::remove_file(&path).unwrap();
    assert!(
        !members.reread().unwrap(),
        "a file that is away changes nothing"
    );
}

#[test]
fn flags_win_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = Some(folder.path().join("not-there"));
    let members = Members::new(Sources {
        file: file.clone(),
        ..sources(&folder)
    })
    .unwrap();
    assert_eq!(listed(&members), [server(1), server(2)]);
    let error = Members::new(Sources {
        file,
        flags: Vec::new(),
        ..sources(&folder)
    });
    assert!(format!("{:#}", error.unwrap_err()).contains("not-there"));
}

#[test]
fn unusable_servers_are_rejected_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    for (flags, word) in [
        (vec![], "--rs"),
        (vec!["[fd00::1]:6443"], "families"),
        (vec!["10.103.97.2:6443"], "itself"),
        (vec!["0.0.0.0:6443"], "not a connectable address"),
    ] {
        let flags = flags.iter().map(|text| text.parse().unwrap()).collect();
        let error = Members::new(Sources {
            flags,
            ..sources(&folder)
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains(word), "{error}");
    }
}
