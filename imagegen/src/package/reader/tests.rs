//! Packages assembled here as folders and archives, whole and broken in every way that is refused.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use tar::{Builder, EntryType, Header};

use super::*;

const FILES: [(&str, &str); 8] = [
    ("bin/kubeadm", "#!"),
    ("bin/kubelet", "#!"),
    ("bin/kubectl", "#!"),
    ("bin/crictl", "#!"),
    (
        "conf/kubeadm.yaml",
        "kind: ClusterConfiguration\nkubernetesVersion: \"v1.20.2\" # of the package\n",
    ),
    ("conf/10-kubeadm.conf", "[Service]\n"),
    ("conf/kubelet.service", "[Unit]\n"),
    ("images/a.tar", "images"),
];

fn folder(at: &Path) -> PathBuf {
    let package = at.join("package");
    for (name, text) in FILES
        .into_iter()
        .chain([("containerd/containerd.tar.gz", "runtime")])
    {
        let path = package.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("creating it");
        fs::write(&path, text).expect("writing to it");
        let mode = if name.starts_with("bin/") {
            0o755
        } else {
            0o644
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changing the mode");
    }
    symlink("kubectl", package.join("bin/k")).expect("linking");
    package
}

/// An archive of the folder by the system's tar: a foreign writer.
fn packed(package: &Path, to: &Path, arguments: &[&str]) {
    let mut tar = Command::new("tar");
    tar.arg("-cf")
        .arg(to)
        .arg("-C")
        .arg(package)
        .args(arguments);
    build_tools::process::run(&mut tar).expect("running tar");
}

struct Raw(Builder<Vec<u8>>);

impl Raw {
    /// All required files, to which a test adds what is wrong.
    fn whole() -> Self {
        let mut raw = Self(Builder::new(Vec::new()));
        for (name, text) in FILES
            .into_iter()
            .chain([("containerd/containerd.tar.gz", "runtime")])
        {
            raw.add(name, EntryType::Regular, "", text);
        }
        raw
    }

    /// Writes the name as it is: the crate refuses to write what its readers must refuse.
    fn add(&mut self, name: &str, kind: EntryType, link: &str, text: &str) {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        header.set_cksum();
        self.0.append(&header, text.as_bytes()).expect("in memory");
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("in memory")
    }
}

/// The error of opening `bytes` as a package.
fn refusal(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("package.tar");
    fs::write(&path, bytes).expect("writing to it");
    match Package::read(&path) {
        Ok(_) => "no error".to_owned(),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn folder_and_archives_have_equal_digests_and_extracts() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let package = folder(dir.path());
    let opened = Package::read(&package).expect("a whole package");
    let digest = opened.digest();
    let top = dir.path().join("kube");
    fs::create_dir(&top).expect("creating it");
    fs::rename(&package, top.join("kube")).expect("renaming");
    let package = top.join("kube");
    let rows: [(&str, &Path, &[&str]); 5] = [
        ("a.tar", &package, &["."]),
        ("b.tar.gz", &package, &["-z", "."]),
        (
            "c.tar",
            &package,
            &[
                "--sort=name",
                "--format=posix",
                "bin",
                "conf",
                "images",
                "containerd",
            ],
        ),
        ("d.tgz", &top, &["-z", "kube"]),
        ("e.tar", &top, &["--format=v7", "kube"]),
    ];
    for (name, from, arguments) in rows {
        let archive = dir.path().join(name);
        packed(from, &archive, arguments);
        let opened = Package::read(&archive).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert_eq!(opened.digest(), digest, "{name}");
        let out = dir.path().join(format!("{name}.out"));
        opened
            .extract_to(&out)
            .unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert_eq!(
            Package::read(&out).expect("whole again").digest(),
            digest,
            "{name}"
        );
        assert_eq!(
            opened.file("bin/kubeadm").expect("reading").as_deref(),
            Some(b"#!".as_slice()),
            "{name}"
        );
    }
    // The content decides, not the name.
    let zstd = dir.path().join("f.tar.gz");
    let plain = fs::read(dir.path().join("a.tar")).expect("reading");
    fs::write(
        &zstd,
        zstd::encode_all(plain.as_slice(), 3).expect("in memory"),
    )
    .expect("writing");
    assert_eq!(Package::read(&zstd).expect("whole").digest(), digest);
    let mut xz = liblzma::read::XzEncoder::new(plain.as_slice(), 1);
    let mut bytes = Vec::new();
    xz.read_to_end(&mut bytes).expect("in memory");
    let path = dir.path().join("package");
    fs::write(&path, &bytes).expect("writing");
    assert_eq!(Package::read(&path).expect("whole").digest(), digest);
    assert!(refusal(&bytes[..bytes.len() / 2]).contains("cut off"));
    assert_eq!(
        Package::read(&top).expect("a folder in a folder").digest(),
        digest
    );
}

#[test]
fn digest_covers_contents_names_and_modes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let package = folder(dir.path());
    let digest = || Package::read(&package).expect("whole").digest();
    let mut seen = vec![digest()];
    fs::write(package.join("README.md"), "x").expect("writing");
    seen.push(digest());
    fs::write(package.join("README.md"), "y").expect("writing");
    seen.push(digest());
    fs::set_permissions(package.join("README.md"), fs::Permissions::from_mode(0o755))
        .expect("mode");
    seen.push(digest());
    fs::rename(package.join("README.md"), package.join("README")).expect("renaming");
    seen.push(digest());
    let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len());
}

#[test]
fn all_missing_files_are_named() {
    let printed = refusal(&{
        let mut raw = Raw(Builder::new(Vec::new()));
        raw.add("bin/kubelet", EntryType::Regular, "", "x");
        raw.bytes()
    });
    for name in [
        "bin/kubeadm",
        "bin/kubectl",
        "conf/kubeadm.yaml",
        "images/*.tar",
        "containerd/",
    ] {
        assert!(printed.contains(name), "{name}: {printed}");
    }
    assert!(!printed.contains("bin/kubelet,"), "{printed}");
}

#[test]
fn hooks_that_never_run_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let package = folder(dir.path());
    let opened = |name: &str, mode: u32| {
        let path = package.join("hooks").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("creating it");
        fs::write(&path, "#!/bin/sh\n").expect("writing");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
        let printed = Package::read(&package).map(|_| ());
        fs::remove_file(&path).expect("removing");
        printed.map_err(|e| format!("{e:#}"))
    };
    for (name, mode) in [
        ("build", 0o755),
        ("before-role", 0o755),
        ("after-role", 0o755),
        ("README.md", 0o644),
        ("lib/functions.sh", 0o755),
    ] {
        assert_eq!(opened(name, mode), Ok(()), "{name}");
    }
    for (name, mode, words) in [
        ("build", 0o644, "`hooks/build` is not executable"),
        (
            "before-roles",
            0o755,
            "unknown hook `before-roles`: hooks are hooks/build, ",
        ),
    ] {
        assert!(
            opened(name, mode).is_err_and(|e| e.contains(words)),
            "{name}"
        );
    }
}

#[test]
fn harmful_entries_are_refused_by_name() {
    let rows = [
        ("../evil", EntryType::Regular, "", "`../evil`"),
        ("/etc/evil", EntryType::Regular, "", "`/etc/evil`"),
        ("conf/../../evil", EntryType::Regular, "", "leads out"),
        (
            "conf/link",
            EntryType::Symlink,
            "../../etc",
            "symlink `conf/link`",
        ),
        (
            "conf/link",
            EntryType::Symlink,
            "/etc/passwd",
            "symlink `conf/link`",
        ),
        (
            "conf/hard",
            EntryType::Link,
            "../../etc/passwd",
            "`conf/hard`",
        ),
        ("conf/hard", EntryType::Link, "/etc/passwd", "`conf/hard`"),
        (
            "conf/hard",
            EntryType::Link,
            "conf/nothing",
            "not an earlier file",
        ),
        ("dev/sda", EntryType::Block, "", "device node"),
        ("dev/null", EntryType::Char, "", "device node"),
        ("pipe", EntryType::Fifo, "", "pipe"),
        (
            "bin/kubelet",
            EntryType::Regular,
            "",
            "`bin/kubelet` appears twice",
        ),
        ("./bin//kubelet", EntryType::Regular, "", "appears twice"),
        ("bin/kubelet/x", EntryType::Regular, "", "not a folder"),
    ];
    for (name, kind, link, words) in rows {
        let mut raw = Raw::whole();
        raw.add(name, kind, link, "");
        let printed = refusal(&raw.bytes());
        assert!(
            printed.contains(words) && printed.contains("package.tar"),
            "{name} -> {link}: {printed}"
        );
    }
}

#[test]
fn truncation_at_any_byte_is_an_error() {
    let whole = Raw::whole().bytes();
    // At 1024 from the end the cut falls between two entries, where tar itself would see a shorter
    // archive.
    for cut in (1..whole.len() - 512)
        .step_by(512)
        .chain([whole.len() - 1024, whole.len() - 1030])
    {
        let printed = refusal(&whole[..cut]);
        assert!(
            printed.contains("cut off") || cut < 512,
            "{cut} of {}: {printed}",
            whole.len()
        );
    }
    let packed = zstd::encode_all(whole.as_slice(), 1).expect("in memory");
    for cut in [packed.len() / 2, packed.len() - 1] {
        assert!(
            refusal(&packed[..cut]).contains("cut off"),
            "{cut}: {}",
            refusal(&packed[..cut])
        );
    }
}

#[test]
fn unsupported_compressions_are_named() {
    assert!(refusal(b"\x04\x22\x4d\x18").contains("compressed with lz4"));
    assert!(refusal(b"BZh91AY").contains("compressed with bzip2"));
    assert!(refusal(&[7; 2000]).contains("not a tar archive"));
    assert!(refusal(b"").contains("empty"));
}

#[test]
fn archive_changed_after_open_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("package.tar");
    fs::write(&path, Raw::whole().bytes()).expect("writing");
    let package = Package::read(&path).expect("whole");
    let mut changed = Raw::whole().bytes();
    changed[512] ^= 1;
    fs::write(&path, changed).expect("writing");
    let printed = package
        .extract_to(&dir.path().join("out"))
        .map_err(|e| format!("{e:#}"));
    assert!(
        printed.as_ref().is_err_and(|e| e.contains("changed since")),
        "{printed:?}"
    );
    assert_eq!(
        fs::read_dir(dir.path()).expect("reading").count(),
        1,
        "something was left behind"
    );
}

#[test]
fn existing_target_stays() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let package = Package::read(&folder(dir.path())).expect("whole");
    let out = dir.path().join("out");
    fs::create_dir(&out).expect("creating it");
    assert!(
        package
            .extract_to(&out)
            .is_err_and(|e| format!("{e:#}").contains("exists already"))
    );
    assert_eq!(fs::read_dir(&out).expect("reading").count(), 0);
}

#[test]
fn version_comes_from_kubeadm_configuration() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = folder(dir.path());
    let version = |text: &str| {
        fs::write(path.join("conf/kubeadm.yaml"), text).expect("writing");
        Package::read(&path)
            .expect("whole")
            .kubernetes_version()
            .map(|v| v.to_string())
            .map_err(|e| format!("{e:#}"))
    };
    assert_eq!(
        version("a: b\nkubernetesVersion: v1.20.2\n").as_deref(),
        Ok("1.20.2")
    );
    assert_eq!(
        version("kubernetesVersion: \"1.31.0-rc.1\" # x\n").as_deref(),
        Ok("1.31.0-rc.1")
    );
    assert!(version("kind: x\n").is_err_and(|e| e.contains("add `kubernetesVersion")));
    assert!(version("kubernetesVersion: stable\n").is_err_and(|e| e.contains("stable")));
}
