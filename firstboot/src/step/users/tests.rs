//! Keys and host keys on a directory.

use super::*;

fn user(name: &str, keys: &[&str]) -> Account {
    Account {
        name: name.to_owned(),
        ssh_authorized_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        ..Account::default()
    }
}

fn step(root: &Root, users: Vec<Account>) -> Users {
    Users {
        root: root.clone(),
        users,
        groups: Vec::new(),
        passwords: Passwords::default(),
        ssh_passwords: false,
        host_keys: Vec::new(),
        instance: "i".to_owned(),
    }
}

#[test]
fn keys_are_written_where_sshd_looks() {
    let users = vec![user("root", &["ssh-ed25519 A", "ssh-ed25519 B"])];
    let files = step(&Root::new("/nowhere"), users).files();
    let [keys] = files.as_slice() else {
        panic!("{files:?}")
    };
    assert_eq!(keys.bytes, b"ssh-ed25519 A\nssh-ed25519 B\n");
    // sshd reads them as the user who logs in.
    assert_eq!(keys.attributes.mode, 0o644);
    let path = keys.path.to_string_lossy();
    assert!(SSHD_TEXT.contains(&path.replace("/root", "/%u")), "{path}");
}

#[test]
fn only_a_key_that_opens_a_shell_starts_sshd() {
    assert!(!have_keys(&[user("operator", &[])]));
    let locked = "no-port-forwarding,no-agent-forwarding,no-X11-forwarding,command=\"\" ssh A";
    assert!(!have_keys(&[user("root", &[locked])]));
    assert!(have_keys(&[
        user("operator", &[]),
        user("root", &["ssh-ed25519 A"])
    ]));
}

#[test]
fn keys_that_a_person_changes_stay() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let mut report = Reporter::silent(&root);
    let first = step(&root, vec![user("root", &["ssh-ed25519 A"])]);
    first.apply(&mut report).unwrap();
    let mode = Attributes::mode(0o644);
    let path = format!("{KEYS}/root");
    root.write(&path, b"ssh-ed25519 B\n", mode).unwrap();
    root.write(format!("{KEYS}/guest"), b"ssh-ed25519 C\n", mode)
        .unwrap();
    assert!(first.is_done().unwrap());
    // A changed document applies again, and takes away only what an earlier one wrote.
    let second = step(&root, vec![user("ops", &["ssh-ed25519 A"])]);
    assert!(!second.is_done().unwrap());
    second.apply(&mut report).unwrap();
    assert_eq!(root.list(KEYS).unwrap(), ["guest", "ops"]);
}

#[test]
fn group_that_nobody_makes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    root.write("/etc/group", b"adm:x:4:\n", Attributes::mode(0o644))
        .unwrap();
    let mut account = Account::named("ops");
    account.groups = vec!["adm".to_owned(), "wheel".to_owned()];
    let check = |account: &Account, groups: Vec<Group>| {
        let mut step = step(&root, vec![account.clone()]);
        step.groups = groups;
        step.check()
    };
    check(&account, Vec::new()).unwrap();
    account.create_groups = false;
    let group = |name: &str| Group {
        name: name.to_owned(),
        members: Vec::new(),
    };
    check(&account, vec![group("wheel")]).unwrap();
    let error = check(&account, Vec::new()).unwrap_err().to_string();
    assert!(error.contains("group `wheel` of user `ops`"), "{error}");
}

#[test]
fn keys_that_the_document_no_longer_has_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let mut report = Reporter::silent(&root);
    let mut apply = |users: Vec<Account>| {
        let step = step(&root, users);
        assert!(!step.is_done().unwrap());
        step.apply(&mut report).unwrap();
        assert!(step.is_done().unwrap());
    };
    let (root_key, operator_key) = (["ssh-ed25519 A"], ["ssh-ed25519 B"]);
    apply(vec![
        user("root", &root_key),
        user("operator", &operator_key),
    ]);
    assert_eq!(root.list(KEYS).unwrap(), ["operator", "root"]);
    apply(vec![user("root", &[]), user("operator", &operator_key)]);
    assert_eq!(root.list(KEYS).unwrap(), ["operator"]);
    assert!(root.exists(SSHD_CONFIG));
    apply(Vec::new());
    assert_eq!(root.list(KEYS).unwrap(), [""; 0]);
    assert!(!root.exists(SSHD_CONFIG));
}

#[test]
fn every_host_key_must_be_there_and_not_empty() {
    let dir = tempfile::tempdir().unwrap();
    let users = step(&Root::new(dir.path()), Vec::new());
    let write = |kind: &str, bytes: &[u8]| {
        let path = format!("{SSH}/ssh_host_{kind}_key");
        let mode = Attributes::mode(0o600);
        users.root.write(path, bytes, mode).unwrap();
    };
    for kind in HOST_KEY_TYPES {
        assert!(!users.has_host_keys().unwrap(), "without {kind}");
        write(kind, b"key");
    }
    assert!(users.has_host_keys().unwrap());
    write("rsa", b"");
    assert!(!users.has_host_keys().unwrap());
}
