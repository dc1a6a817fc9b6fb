use std::path::PathBuf;

use super::*;

const USER_DATA: &[u8] =
    b"#cloud-config\nwrite_files:\n- { path: /etc/app/secret, content: whole }\n";

/// A master0 that has become Ready, and what a cut after that leaves.
struct Case {
    known: Known,
    tree: Tree,
    wal: Vec<String>,
    seed: HashMap<String, Vec<u8>>,
    reported: BTreeSet<Event>,
}

impl Case {
    fn new() -> Self {
        let seed = HashMap::from([
            ("user-data".to_owned(), USER_DATA.to_vec()),
            ("meta-data".to_owned(), b"instance-id: i-1\n".to_vec()),
        ]);
        let mut tree = Tree::new();
        for (path, text) in [
            ("/etc/app/secret", "whole"),
            ("/etc/hostname", "m0\n"),
            ("/etc/machine-id", "0123\n"),
            ("/etc/kubernetes/manifests/etcd.yaml", "etcd"),
            ("/etc/ssh/ssh_host_ed25519_key", "key"),
            ("/var/lib/kubelet/config.yaml", "kubelet"),
            ("/var/lib/kubelet/kubeadm-flags.env", "flags"),
            ("/var/lib/firstlight/control-plane-initialised", "mark"),
            ("/var/lib/firstlight/receipt.json", r#"{"steps":[]}"#),
        ] {
            tree.insert(path.to_owned(), Node::File(text.as_bytes().to_vec()));
        }
        let link = "/etc/systemd/system/multi-user.target.wants/ssh.service";
        tree.insert(link.to_owned(), Node::Link(PathBuf::from("/usr/lib")));
        let mut case = Self {
            known: Known::new("master0", &seed, tree.clone()).unwrap(),
            tree,
            wal: vec!["0.wal".to_owned()],
            seed,
            reported: BTreeSet::from([Event::Ready, Event::Done("files".to_owned())]),
        };
        case.keep(Phase::Applied);
        case
    }

    /// Writes the record as firstboot does.
    fn keep(&mut self, phase: Phase) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let seed = Seed {
            origin: "seed".to_owned(),
            user_data: USER_DATA.to_vec(),
            meta_data: Vec::new(),
            network_config: None,
            vendor_data: None,
        };
        let mut record = Record::new("seed", &seed, None, "0".repeat(64));
        record.phase = phase;
        record.save(&root).unwrap();
        for path in [PATH, COPY] {
            let bytes = root.read(path).unwrap().unwrap();
            self.tree.insert(path.to_owned(), Node::File(bytes));
        }
    }

    fn put(&mut self, path: &str, text: &str) {
        let node = Node::File(text.as_bytes().to_vec());
        self.tree.insert(path.to_owned(), node);
    }

    fn lost(&self) -> String {
        let scratch = tempfile::tempdir().unwrap();
        let left = Left {
            tree: Some(&self.tree),
            wal: &self.wal,
            seed: Ok(&self.seed),
            reported: &self.reported,
            scratch: scratch.path(),
        };
        self.known.judge(&left).unwrap().join("\n")
    }
}

#[test]
fn whole_machine_has_lost_nothing() {
    assert_eq!(Case::new().lost(), "");
    // What an interrupted write leaves is no file yet.
    let mut case = Case::new();
    case.put("/etc/app/.secret.firstboot", "wh");
    assert_eq!(case.lost(), "");
}

#[test]
fn unfinished_file_of_firstboot_is_lost_whatever_was_reported() {
    for left in ["", "wh", "other"] {
        let mut case = Case::new();
        case.reported.clear();
        case.put("/etc/app/secret", left);
        assert!(
            case.lost().contains("neither absent nor complete"),
            "{}",
            case.lost()
        );
    }
    let mut case = Case::new();
    case.put("/var/lib/firstlight/receipt.json", "");
    assert!(case.lost().contains("is not JSON"), "{}", case.lost());
}

#[test]
fn what_was_reported_is_on_the_disk() {
    let mut case = Case::new();
    case.tree.remove("/etc/app/secret");
    assert!(
        case.lost().contains("step `files` was reported done"),
        "{}",
        case.lost()
    );
    let mut case = Case::new();
    case.tree.remove("/etc/machine-id");
    assert!(
        case.lost().contains("Ready was reported"),
        "{}",
        case.lost()
    );
}

#[test]
fn kubeadms_file_may_be_unfinished_until_the_marker_is_set() {
    let path = "/etc/kubernetes/manifests/etcd.yaml";
    let mut case = Case::new();
    case.put(path, "");
    assert!(
        case.lost().contains("control-plane-initialised"),
        "{}",
        case.lost()
    );
    assert!(case.known.is_torn(&case.tree));
    case.tree
        .remove("/var/lib/firstlight/control-plane-initialised");
    assert_eq!(case.lost(), "");
}

#[test]
fn enabled_sshd_has_its_keys() {
    let mut case = Case::new();
    case.put("/etc/ssh/ssh_host_ed25519_key", "");
    assert!(
        case.lost().contains("ssh.service` is there"),
        "{}",
        case.lost()
    );
}

#[test]
fn record_is_there_before_anything_else_and_each_copy_is_whole() {
    let mut case = Case::new();
    case.put(PATH, "sha256:0\n{}");
    assert!(
        case.lost().contains("document.json` alone"),
        "{}",
        case.lost()
    );
    let mut case = Case::new();
    case.reported.clear();
    case.tree.remove(PATH);
    // A copy is enough.
    assert_eq!(case.lost(), "");
    case.tree.remove(COPY);
    assert!(
        case.lost().contains("there is no record"),
        "{}",
        case.lost()
    );
}

#[test]
fn seed_keeps_its_secrets_until_the_machine_has_them() {
    let mut case = Case::new();
    case.seed
        .insert("user-data".to_owned(), SCRUBBED_MARK.as_bytes().to_vec());
    assert_eq!(case.lost(), "");
    case.keep(Phase::Pending);
    assert!(
        case.lost().contains("has lost its secrets"),
        "{}",
        case.lost()
    );
    let mut case = Case::new();
    case.seed.insert("user-data".to_owned(), b"#cloud".to_vec());
    assert!(case.lost().contains("has no mark"), "{}", case.lost());
}
