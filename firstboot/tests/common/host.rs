//! A machine as a directory, and the program run on it.

use std::fs;

use assert_cmd::Command;
use tempfile::TempDir;

use super::{fixture, image_root};

/// A machine, and a seed that a test may change.
pub(crate) struct Host {
    pub(crate) root: TempDir,
    pub(crate) seed: TempDir,
}

pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) text: String,
}

impl Host {
    /// With the seed of this case.
    pub(crate) fn new(case: &str) -> Self {
        let seed = TempDir::new().unwrap();
        for entry in fs::read_dir(fixture(&format!("cases/{case}"))).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                fs::copy(entry.path(), seed.path().join(entry.file_name())).unwrap();
            }
        }
        Host {
            root: image_root(),
            seed,
        }
    }

    /// With this user-data and nothing else in the seed.
    pub(crate) fn with(user_data: &str) -> Self {
        let host = Host {
            root: image_root(),
            seed: TempDir::new().unwrap(),
        };
        host.document("user-data", &format!("#cloud-config\n{user_data}"));
        host
    }

    pub(crate) fn document(&self, file: &str, text: &str) {
        fs::write(self.seed.path().join(file), text).unwrap();
    }

    /// Puts a file on the machine.
    pub(crate) fn put(&self, path: &str, text: &str) {
        let path = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        let path = self.root.path().join(path.trim_start_matches('/'));
        fs::read_to_string(&path).unwrap_or_default()
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.root.path().join(path.trim_start_matches('/')).exists()
    }

    pub(crate) fn run(&self) -> Run {
        self.firstboot(&[])
    }

    pub(crate) fn plan(&self) -> Run {
        self.firstboot(&["--plan"])
    }

    pub(crate) fn firstboot(&self, arguments: &[&str]) -> Run {
        let mut command = Command::cargo_bin("firstboot").unwrap();
        command.arg("--root").arg(self.root.path());
        command.arg("--seed").arg(self.seed.path()).args(arguments);
        let output = command.output().unwrap();
        Run {
            status: output.status.code().unwrap(),
            text: String::from_utf8([output.stdout, output.stderr].concat()).unwrap(),
        }
    }

    /// Runs, and fails the test unless it ends ready.
    pub(crate) fn boot(&self) -> Run {
        let run = self.run();
        assert_eq!(run.status, 0, "{}", run.text);
        run
    }

    /// The keys that let `user` in, without those that only print a message.
    pub(crate) fn keys(&self, user: &str) -> Vec<String> {
        let text = self.read(&format!("/etc/ssh/authorized_keys.d/{user}"));
        let lines = text.lines().filter(|line| !line.contains("command="));
        lines.map(str::to_owned).collect()
    }
}
