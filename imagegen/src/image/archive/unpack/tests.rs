use std::io::Write as _;

use tar::{EntryType, Header};

use super::*;

const FILE: EntryType = EntryType::Regular;
const FOLDER: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Link;

/// An archive from raw entries, which no tool has to accept.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, name: &str, kind: EntryType, link: &str, body: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(body.len() as u64);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str) -> Self {
        self.entry(name, FILE, "", name.as_bytes())
    }

    fn folder(self, name: &str) -> Self {
        self.entry(name, FOLDER, "", b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..9).map(|digits| digits + rest);
            let length = length
                .into_iter()
                .find(|n| n.to_string().len() + rest == *n);
            body.extend(format!("{} {key}=", length.expect("a length")).as_bytes());
            body.extend(*value);
            body.push(b'\n');
        }
        self.entry("PaxHeader", EntryType::XHeader, "", &body)
    }

    fn end(mut self) -> Self {
        self.0.resize(self.0.len() + 1024, 0);
        self
    }

    /// Unpacks it as a layer in the folder `f`.
    fn read(self) -> Result<Archive> {
        let mut file = tempfile::tempfile()?;
        file.write_all(&self.0)?;
        let mut archive = Archive::default();
        archive.directory("f", 0o755);
        archive.add_tar(&Arc::new(file), |path| {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let parent = format!("f/{parent}");
            let parent = parent.trim_end_matches('/');
            Some(match name.strip_prefix(".wh.") {
                Some(".wh..opq") => Placed::Opaque(parent.to_owned()),
                Some(hidden) => Placed::Whiteout(format!("{parent}/{hidden}")),
                None => Placed::At(format!("f/{path}")),
            })
        })?;
        Ok(archive)
    }

    #[track_caller]
    fn refused(self, why: &str) {
        let error = self.end().read().expect_err(why);
        let text = format!("{error:#}");
        assert!(text.contains(why), "expected `{why}`: {text}");
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

fn names(archive: &Archive) -> Vec<&str> {
    archive.entries.keys().map(String::as_str).collect()
}

fn is_opaque(archive: &Archive, path: &str) -> bool {
    let entry = archive.get(path).expect(path);
    matches!(entry.content, Content::Directory) && entry.xattrs.iter().any(|(n, _)| n == OPAQUE)
}

#[test]
fn whiteouts_of_no_file_are_refused() {
    for name in [".wh.", "a/.wh.", "a/.wh..", "a/.wh..."] {
        Tar::default()
            .file("a/b")
            .file(name)
            .refused(&format!("unpacking `{name}`: it is a whiteout of no file"));
    }
    let long = "d".repeat(90);
    Tar::default()
        .pax(&[("path", format!("{long}/{long}/.wh...").as_bytes())])
        .file("short")
        .refused("it is a whiteout of no file");
}

#[test]
fn whiteouts_hide_lower_layers_only() -> Result<()> {
    let archive = Tar::default()
        .file("kept")
        .file(".wh.kept")
        .file(".wh.gone")
        .folder("new/")
        .file(".wh.new")
        .file(".wh.again")
        .file("again/x")
        .file("opq/.wh..wh..opq")
        .folder("opq/")
        .end()
        .read()?;
    let device = |path: &str| {
        matches!(
            archive.get(path).map(|entry| &entry.content),
            Some(Content::CharDevice(0, 0))
        )
    };
    assert!(device("f/gone") && !device("f/kept"));
    for path in ["f/new", "f/again", "f/opq"] {
        assert!(is_opaque(&archive, path), "{path}");
    }
    Ok(())
}

#[test]
fn opaque_mark_below_a_file_is_refused() {
    Tar::default()
        .file("a")
        .file("a/.wh..wh..opq")
        .refused("its folder `f/a` is a file of the same archive");
}

#[test]
fn file_replaces_a_folder_and_what_is_in_it() -> Result<()> {
    let archive = Tar::default()
        .folder("a/")
        .file("a/b")
        .file("ab")
        .file("a")
        .end()
        .read()?;
    assert_eq!(names(&archive), ["f", "f/a", "f/ab"]);
    Tar::default()
        .file("a")
        .file("a/b")
        .refused("unpacking `a/b`: its folder `f/a` is a file of the same archive");
    Tar::default()
        .entry("a", EntryType::Symlink, "/etc", b"")
        .file("a/b")
        .refused("its folder `f/a` is a symbolic link of the same archive");
    Ok(())
}

#[test]
fn hard_links_need_a_file_of_the_same_archive() -> Result<()> {
    Tar::default()
        .entry("h", LINK, "nope", b"")
        .refused("unpacking `h`: it is a hard link to `f/nope`, which the archive does not have");
    Tar::default()
        .file("a")
        .entry("h", LINK, "/etc/passwd", b"")
        .refused("it is a hard link to `f/etc/passwd`, which the archive does not have");
    Tar::default()
        .folder("a/")
        .entry("h", LINK, "a", b"")
        .refused("it is a hard link to `f/a`, which is not a file");
    Tar::default()
        .entry("h", LINK, "../x", b"")
        .refused("its path leads out of the archive");
    Tar::default()
        .file("a")
        .entry("h", LINK, "a", b"")
        .file("a")
        .refused("it replaces a file with hard links in the same archive");
    let archive = Tar::default()
        .file("a")
        .entry("b", LINK, "./a", b"")
        .entry("c", LINK, "b", b"")
        .end()
        .read()?;
    for path in ["f/b", "f/c"] {
        let content = &archive.get(path).expect(path).content;
        assert!(
            matches!(content, Content::Hardlink(to) if to == "f/a"),
            "{content:?}"
        );
    }
    Ok(())
}

#[test]
fn attributes_may_have_any_byte() -> Result<()> {
    let capability = b"\x01\0\0\x02\n\0\0\0\0\0\0\0\n\0\0\0\0\0\0\0";
    let archive = Tar::default()
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("mtime", b"1.5"),
        ])
        .file("bin/x")
        .end()
        .read()?;
    let xattrs = &archive.get("f/bin/x").expect("the file").xattrs;
    assert_eq!(
        xattrs.as_slice(),
        [("security.capability".to_owned(), capability.to_vec())]
    );
    Tar::default()
        .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/1/fs")])
        .folder("a/")
        .refused("only the kernel's overlayfs may set");
    Ok(())
}

#[test]
fn sparse_files_are_refused() {
    Tar::default()
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.name", b"real")])
        .file("GNUSparseFile.0/real")
        .refused("`GNUSparseFile.0/real` is a sparse file");
    Tar::default()
        .entry("a", EntryType::GNUSparse, "", b"")
        .refused("unpacking `a`: it is a sparse file");
}

#[test]
fn control_characters_are_refused() {
    for name in ["a\nb", "\x1b[2Jx", "a\rb"] {
        Tar::default()
            .file(name)
            .refused("its path has a control character");
    }
    Tar::default()
        .entry("a", EntryType::Symlink, "b\nc", b"")
        .refused("the target of its link is empty or has a control character");
    Tar::default()
        .pax(&[("path", b"a\0b")])
        .file("x")
        .refused("a PAX record that is not one");
}

#[test]
fn extended_headers_are_limited_and_unambiguous() {
    let long = vec![b'a'; (1 << 20) + 1];
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
    ] {
        Tar::default()
            .entry("long", kind, "", &long)
            .file("a")
            .refused("an extended header has 1048577 bytes, more than 1048576");
    }
    Tar::default()
        .pax(&[("path", b"a")])
        .pax(&[("path", b"b")])
        .file("c")
        .refused("two extended headers of one kind");
    Tar::default()
        .pax(&[("path", b"a")])
        .refused("an extended header without its entry");
    Tar::default()
        .pax(&[("size", b"1024")])
        .file("a")
        .refused("`a` has two sizes, 1 and 1024");
    for records in [
        "5 a=b\n",
        "99 path=a\n",
        "path=a\n",
        "9 path=a ",
        "+9 path=a\n",
    ] {
        Tar::default()
            .entry("x", EntryType::XHeader, "", records.as_bytes())
            .file("a")
            .refused("a PAX record that is not one");
    }
}

#[test]
fn cut_off_and_continued_archives_are_refused() {
    let whole = Tar::default().file("a").0;
    for (length, why) in [
        (300, "in the middle of a header"),
        (512, "in the middle of an entry"),
    ] {
        let error = Tar(whole[..length].to_vec()).read().expect_err(why);
        assert!(format!("{error:#}").contains(why), "{error:#}");
    }
    let mut gap = whole.clone();
    gap.resize(gap.len() + 512, 0);
    gap.extend(&whole);
    Tar(gap).refused("entries behind a block of zeros");
    let mut damaged = whole;
    damaged[0] = b'b';
    Tar(damaged).refused("wrong checksum");
}

#[test]
fn numbers_of_a_header_that_are_none_are_not_quoted() {
    for field in [100..108, 108..116, 116..124, 136..148] {
        let mut tar = Tar::default().file("a").0;
        tar[field].fill(0x1b);
        let mut header = Header::from_byte_slice(&tar[..512]).clone();
        header.set_cksum();
        tar[..512].copy_from_slice(header.as_bytes());
        Tar(tar).refused(" has no ");
    }
}

#[test]
fn only_devices_of_no_hardware_stay_in_a_layer() -> Result<()> {
    let device = |name: &str, kind, major, minor| {
        let mut tar = Tar::default().entry(name, kind, "", b"").0;
        let header = Header::from_byte_slice(&tar[..512]);
        let mut header = header.clone();
        header.set_device_major(major).expect("a ustar header");
        header.set_device_minor(minor).expect("a ustar header");
        header.set_cksum();
        tar[..512].copy_from_slice(header.as_bytes());
        tar
    };
    let layer = |devices: &[Vec<u8>]| {
        let mut archive = Tar(devices.concat()).end().read()?;
        archive.drop_devices("f").map(|()| archive)
    };
    let archive = layer(&[
        device("dev/null", EntryType::Char, 1, 3),
        device("dev/mem", EntryType::Char, 1, 1),
        device("dev/mapper/root", EntryType::Block, 253, 0),
        device("srv/random", EntryType::Char, 1, 9),
    ])?;
    assert_eq!(
        names(&archive),
        [
            "f",
            "f/dev",
            "f/dev/mapper",
            "f/dev/null",
            "f/srv",
            "f/srv/random"
        ]
    );
    for hidden in [
        device("srv/disk", EntryType::Block, 8, 0),
        device("deva/mem", EntryType::Char, 1, 1),
    ] {
        let error = layer(&[hidden]).expect_err("a device of the hardware");
        assert!(error.to_string().contains("is a device node"), "{error}");
    }
    Ok(())
}
