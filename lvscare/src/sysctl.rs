//! The IPVS sysctls that lvscare relies on, in `/proc/sys/net/ipv4/vs` of its network namespace.
//!
//! They exist once `ip_vs` is loaded, and a pod cannot write them: the image and `run-once` set
//! them, the daemon only warns.

use std::fs;
use std::path::Path;

const FOLDER: &str = "/proc/sys/net/ipv4/vs";

/// Name, expected value, and the effect of any other.
const WANTED: [(&str, &str, &str); 4] = [
    (
        "conntrack",
        "1",
        "behind a stateful firewall and from pods, connections to the virtual address time out",
    ),
    (
        "expire_nodest_conn",
        "1",
        "flows to a deleted server hang instead of being reset",
    ),
    (
        "expire_quiescent_template",
        "1",
        "persistent clients stay on a drained server",
    ),
    (
        "sloppy_tcp",
        "0",
        "flows to a deleted server are moved instead of being reset",
    ),
];

/// A sysctl with an unexpected value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub name: &'static str,
    pub found: String,
    pub wanted: &'static str,
    pub consequence: &'static str,
}

/// The settings with an unexpected value.
pub fn check() -> Vec<Wrong> {
    check_in(Path::new(FOLDER))
}

/// Sets them and returns those that still differ.
pub fn set() -> Vec<Wrong> {
    set_in(Path::new(FOLDER))
}

fn check_in(folder: &Path) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    for (name, wanted, consequence) in WANTED {
        let found = fs::read_to_string(folder.join(name));
        let found = match found {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "missing".to_owned(),
            Err(error) => error.to_string(),
        };
        if found != wanted {
            wrong.push(Wrong {
                name,
                found,
                wanted,
                consequence,
            });
        }
    }
    wrong
}

fn set_in(folder: &Path) -> Vec<Wrong> {
    for wrong in check_in(folder) {
        // Read-only in a pod: only the value afterwards matters.
        let _ = fs::write(folder.join(wrong.name), wrong.wanted);
    }
    check_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named_and_set() {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in [
            ("conntrack", "0\n"),
            ("expire_nodest_conn", "1\n"),
            ("sloppy_tcp", "0\n"),
        ] {
            fs::write(folder.path().join(name), value).unwrap();
        }
        let names: Vec<_> = check_in(folder.path())
            .iter()
            .map(|wrong| (wrong.name, wrong.found.clone()))
            .collect();
        assert_eq!(names[0], ("conntrack", "0".to_owned()));
        assert_eq!(names[1].0, "expire_quiescent_template");
        assert_eq!(names.len(), 2);
        assert_eq!(set_in(folder.path()), vec![]);
    }
}
