//! A temporary folder with a topology, and the built program.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use userdata::document::{Document, Seed};

pub(crate) const PROD: &str = include_str!("../topologies/prod.yaml");

/// Reports a skipped test, which is a failure in CI.
pub(crate) fn skip(reason: &str) {
    assert!(
        std::env::var_os("FIRSTLIGHT_NO_SKIP").is_none_or(|value| value != "1"),
        "skipped: {reason}"
    );
    eprintln!("skipped: {reason}");
}

pub(crate) struct Work {
    dir: tempfile::TempDir,
}

impl Work {
    pub(crate) fn new() -> Self {
        let work = Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
        };
        work.topology(PROD);
        work
    }

    pub(crate) fn topology(&self, text: &str) {
        fs::write(self.path("cluster.yaml"), text).expect("writing the topology");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `imagegen` in the folder.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("imagegen"));
        command
            .current_dir(self.dir.path())
            .args(args)
            .output()
            .expect("running imagegen")
    }

    /// `imagegen image` with its own cache and the programs of [`static_programs`].
    pub(crate) fn image(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("imagegen"));
        command
            .current_dir(self.dir.path())
            .env("FIRSTLIGHT_CACHE", self.path("cache"))
            .args(["image", "-t", "cluster.yaml", "--programs", "programs"])
            .args(args);
        command
    }

    /// The output of `imagegen userdata`, which must succeed.
    pub(crate) fn userdata(&self) -> String {
        let output = self.run(&["userdata", "--topology", "cluster.yaml"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn document(&self, host: &str) -> Document {
        let read = |name: &str| {
            fs::read(self.path(&format!("prod/hosts/{host}/{name}"))).expect("a file of a document")
        };
        let (user_data, meta_data, network) =
            (read("user-data"), read("meta-data"), read("network-config"));
        let seed = Seed {
            name: host,
            user_data: &user_data,
            meta_data: &meta_data,
            network_config: Some(&network),
        };
        let (document, notices) = Document::parse(seed).unwrap_or_else(|found| panic!("{found}"));
        assert!(notices.is_empty(), "{notices:?}");
        document
    }

    /// Writes the document's files to a folder, as on the host.
    pub(crate) fn unpack(&self, host: &str) -> PathBuf {
        let root = self.path(&format!("unpacked-{host}"));
        for file in &self.document(host).cloud_config.files {
            let path = root.join(file.path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().expect("an absolute path")).expect("making a folder");
            fs::write(path, file.content.expose()).expect("unpacking a file");
        }
        root
    }

    /// Every file below `name`: its bytes, mode, inode and time of change.
    pub(crate) fn state(&self, name: &str) -> BTreeMap<PathBuf, (Vec<u8>, u32, u64, i64)> {
        let mut state = BTreeMap::new();
        let root = self.path(name);
        walk(&root, &mut |path| {
            let meta = fs::metadata(path).expect("looking at a file");
            let relative = path
                .strip_prefix(&root)
                .expect("a file below the root")
                .to_owned();
            let bytes = fs::read(path).expect("reading a file");
            state.insert(
                relative,
                (bytes, meta.mode() & 0o7777, meta.ino(), meta.mtime_nsec()),
            );
        });
        state
    }

    /// The names in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).expect("reading a folder");
        let mut names: Vec<_> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

/// A copy of the program for all users: the build folder may be accessible to root only.
pub(crate) fn imagegen_for_all(work: &Work) -> PathBuf {
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(work.path(""), everybody.clone()).expect("opening the folder");
    let copy = work.path("imagegen");
    fs::copy(assert_cmd::cargo::cargo_bin!("imagegen"), &copy).expect("copying");
    fs::set_permissions(&copy, everybody).expect("making it a program");
    copy
}

/// Fake programs of the image: the smallest ELF file without interpreter. Nothing runs them.
pub(crate) fn static_programs(work: &Work) {
    let folder = work.path("programs");
    fs::create_dir_all(&folder).expect("a folder");
    for name in imagegen::image::programs::NAMES {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64, 0);
        fs::write(folder.join(name), elf).expect("writing");
    }
}

pub(crate) fn walk(folder: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(folder).expect("reading a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, each);
        } else {
            each(&path);
        }
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
