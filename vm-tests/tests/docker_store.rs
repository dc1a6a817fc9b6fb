//! docker takes the images that imagegen unpacks for its own: Debian's dockerd reads the store, and
//! writes the same files when it loads the same archive.
//!
//! Needs root for namespaces; boots no machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use build_tools::cache::Cache;
use build_tools::progress::Progress;
use imagegen::image::archive::Archive;
use imagegen::image::{docker, layers};
use imagegen::package::oci::ImageArchive;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use vm_tests::host::NO_SKIP;
use vm_tests::host::docker::{tree, with_dockerd};
use vm_tests::host::process;
use vm_tests::host::run_dir::RunDir;

#[test]
fn docker_reads_and_writes_the_same_store() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        ensure!(
            std::env::var_os(NO_SKIP).is_none(),
            "namespaces for dockerd need root"
        );
        eprintln!("skipped: namespaces for dockerd need root");
        return Ok(());
    }
    let run_dir = RunDir::new("docker_store")?;
    let folder = run_dir.folder();
    let tree = tree(&Cache::open()?, &Progress::stderr())?;
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");

    let archive = folder.join("images.tar");
    write_archive(&archive)?;
    let root = folder.join("root");
    let ours = unpacked_store(&archive, folder, &root)?;
    let images = root.join(layers::LAYERS);
    let look = |data: &Path| -> Result<String> {
        let mut look = with_dockerd(&tree, data, &images, &tests.join("docker_look.sh"))?;
        Ok(String::from_utf8_lossy(&process::run(&mut look)?).into_owned())
    };
    let theirs = folder.join("theirs");
    fs::create_dir(&theirs)?;
    let mut load = with_dockerd(&tree, &theirs, &images, &tests.join("docker_load.sh"))?;
    process::run(load.env("ARCHIVE", &archive))?;

    let (found, wanted) = (store_files(&ours)?, store_files(&theirs)?);
    ensure!(wanted.len() > 10, "docker has written {wanted:?}");
    for (name, bytes) in &wanted {
        ensure!(
            found.get(name) == Some(bytes),
            "{name}: docker writes\n{bytes}\nand imagegen\n{:?}",
            found.get(name)
        );
    }
    ensure!(found.len() == wanted.len(), "{found:?}");

    let wanted = look(&theirs)?;
    for word in [
        "two:1",
        "nested/three:2",
        "kept",
        "folder/new",
        "-rwsr-xr-x",
    ] {
        ensure!(wanted.contains(word), "no {word}: {wanted}");
    }
    for word in ["removed", "folder/old", "library/"] {
        ensure!(!wanted.contains(word), "{word}: {wanted}");
    }
    let found = look(&ours)?;
    ensure!(
        found == wanted,
        "docker shows\n{wanted}\nand of imagegen's store\n{found}"
    );
    run_dir.passed();
    Ok(())
}

/// `(path, type, mode, contents or target)`
type Item = (&'static str, EntryType, u32, &'static str);

fn layer(items: &[Item]) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (path, kind, mode, text) in items {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_600_000_000);
        header.set_size(0);
        match kind {
            EntryType::Symlink | EntryType::Link => builder.append_link(&mut header, path, text)?,
            _ => {
                header.set_size(text.len() as u64);
                builder.append_data(&mut header, path, text.as_bytes())?;
            }
        }
    }
    Ok(builder.into_inner()?)
}

/// Two images with a layer in common, as `docker save` writes them: whiteouts, an opaque folder,
/// links, a set-user-id program, a name longer than a header has room for.
fn write_archive(path: &Path) -> Result<()> {
    use EntryType::{Directory, Link, Regular, Symlink};
    const LONG: &str = "folder/a-name-that-is-longer-than-the-hundred-bytes-of-a-header-so-that-\
                        tar-writes-it-into-an-entry-of-its-own";
    let layers = [
        layer(&[
            ("folder/", Directory, 0o750, ""),
            ("folder/old", Regular, 0o644, "old"),
            ("kept", Regular, 0o600, "<kept> & \"quoted\""),
            ("removed", Regular, 0o644, "removed"),
        ])?,
        layer(&[
            (".wh.removed", Regular, 0, ""),
            ("folder/", Directory, 0o755, ""),
            ("folder/.wh..wh..opq", Regular, 0, ""),
            ("folder/new", Regular, 0o4755, "new"),
            (LONG, Regular, 0o644, "long"),
            ("same", Link, 0o4755, "folder/new"),
            ("link", Symlink, 0o777, "folder/new"),
        ])?,
        layer(&[("empty", Regular, 0o644, "")])?,
    ];
    let mut builder = Builder::new(File::create(path)?);
    let mut add = |name: &str, bytes: &[u8]| -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        Ok(builder.append_data(&mut header, name, bytes)?)
    };
    let digest = |bytes: &[u8]| imagegen::digest::digest(bytes);
    let mut manifest = Vec::new();
    for (names, numbers) in [
        (
            vec!["docker.io/library/two:1", "quay.io/other:3"],
            vec![0, 1],
        ),
        (vec!["docker.io/nested/three:2"], vec![0, 1, 2]),
    ] {
        let diff_ids: Vec<_> = numbers
            .iter()
            .map(|n: &usize| digest(&layers[*n]))
            .collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Env": ["PATH=/bin"], "Cmd": ["/program"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
        .to_string();
        let id = digest(config.as_bytes());
        let name = format!("{}.json", id.trim_start_matches("sha256:"));
        add(&name, config.as_bytes())?;
        let files: Vec<_> = numbers.iter().map(|n| format!("{n}/layer.tar")).collect();
        manifest.push(json!({ "Config": name, "RepoTags": names, "Layers": files }));
    }
    for (number, layer) in layers.iter().enumerate() {
        add(&format!("{number}/layer.tar"), layer)?;
    }
    add(
        "manifest.json",
        Value::from(manifest).to_string().as_bytes(),
    )
}

/// Writes the store below `root` as an image has it; returns docker's folder.
fn unpacked_store(archive: &Path, work: &Path, root: &Path) -> Result<PathBuf> {
    let file = archive.file_name().and_then(|name| name.to_str());
    let images = ImageArchive::of_package(work, file.context("a name")?)?.images;
    let mut composed = Archive::default();
    docker::store::write(&mut composed, "var", &layers::spool(&images, work)?)?;
    let tar = work.join("root.tar");
    composed.write(BufWriter::new(File::create(&tar)?))?;
    fs::create_dir(root)?;
    let mut unpack = Command::new("tar");
    unpack.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"]);
    process::run(unpack.arg(&tar).arg("-C").arg(root))?;
    Ok(root.join("var/lib/docker"))
}

/// Files of docker's databases, as text. Names that docker draws by lot are left out, and what
/// tar-split splits into several lines is joined.
fn store_files(data: &Path) -> Result<BTreeMap<String, String>> {
    let known = data.join("image/overlay2");
    let mut found = BTreeMap::new();
    let mut text = |name: String, bytes: Vec<u8>| {
        found.insert(name, String::from_utf8_lossy(&bytes).into_owned());
    };
    let names: Value = serde_json::from_slice(&fs::read(known.join("repositories.json"))?)?;
    text(
        "repositories.json".to_owned(),
        names.to_string().into_bytes(),
    );
    for entry in fs::read_dir(known.join("imagedb/content/sha256"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        text(name, fs::read(entry.path())?);
    }
    for entry in fs::read_dir(known.join("layerdb/sha256"))? {
        let folder = entry?.path();
        let layer = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        for name in ["diff", "parent", "size"] {
            if let Ok(bytes) = fs::read(folder.join(name)) {
                text(format!("{layer}/{name}"), bytes);
            }
        }
        text(
            format!("{layer}/tar-split"),
            split_lines(&folder)?.into_bytes(),
        );
        let cache = fs::read_to_string(folder.join("cache-id"))?;
        let driver = data.join("overlay2").join(&cache);
        let link = fs::read_to_string(driver.join("link"))?;
        let target = fs::read_link(data.join("overlay2/l").join(&link))?;
        ensure!(
            target == Path::new(&format!("../{cache}/diff")),
            "{target:?}"
        );
        ensure!(link.len() == 26, "{link}");
        let lower = fs::read_to_string(driver.join("lower")).unwrap_or_default();
        let count = lower.split(':').filter(|one| !one.is_empty()).count();
        let committed = driver.join("committed").exists();
        text(
            format!("{layer}/driver"),
            format!("{count} {committed}").into_bytes(),
        );
    }
    Ok(found)
}

/// Lines of `tar-split.json.gz` without positions, segments joined.
fn split_lines(folder: &Path) -> Result<String> {
    use base64::Engine as _;
    let mut lines = String::new();
    let mut segment = Vec::new();
    let mut unpack = Command::new("gzip");
    let json = process::run(unpack.arg("-dc").arg(folder.join("tar-split.json.gz")))?;
    let end = |segment: &mut Vec<u8>, lines: &mut String| {
        lines.push_str(&imagegen::digest::digest(segment));
        lines.push('\n');
        segment.clear();
    };
    for line in String::from_utf8(json)?.lines() {
        let line: Value = serde_json::from_str(line)?;
        if line["type"] == 2 {
            let payload = line["payload"].as_str().unwrap_or_default();
            segment.extend(base64::engine::general_purpose::STANDARD.decode(payload)?);
            continue;
        }
        end(&mut segment, &mut lines);
        lines.push_str(&format!(
            "{} {} {}\n",
            line["name"], line["size"], line["payload"]
        ));
    }
    end(&mut segment, &mut lines);
    Ok(lines)
}
