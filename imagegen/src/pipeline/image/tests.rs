//! The image stage with a builder that writes only a name: what it rebuilds, removes and keeps.

use std::cell::Cell;

use std::fs;

use anyhow::bail;

use super::super::{Request, read};
use super::*;
use crate::digest::digest;

struct Bench {
    dir: tempfile::TempDir,
    built: Cell<u32>,
    converted: Cell<u32>,
}

impl Bench {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let topology = include_str!("../../../tests/topologies/prod.yaml");
        fs::write(dir.path().join("cluster.yaml"), topology)?;
        Ok(Self {
            dir,
            built: Cell::new(0),
            converted: Cell::new(0),
        })
    }

    /// Updates to an image whose bytes are `key`; returns whether anything changed.
    fn image(&self, key: &str, qcow2: bool) -> Result<bool> {
        let input = read(&Request {
            topology: self.dir.path().join("cluster.yaml"),
            package: None,
            output: None,
        })?;
        let folder = Folder::open(&self.dir.path().join("out"))?;
        let build = |image: &Path, work: &Path| {
            self.built.set(self.built.get() + 1);
            fs::write(work.join("scratch"), "")?;
            fs::write(image, key)?;
            let report = ImageReport {
                package: "sha256:0".to_owned(),
                root_hash: String::new(),
                kernel_release: String::new(),
                root_size: 0,
                uki_size: 0,
                site_packages: Vec::new(),
                stages: Vec::new(),
            };
            Ok((report, format!("parts of {key}").into_bytes()))
        };
        let convert = |raw: &Path, out: &Path| {
            self.converted.set(self.converted.get() + 1);
            if key == "bad" {
                bail!("no space");
            }
            fs::write(out, [b"qcow2 of ", fs::read(raw)?.as_slice()].concat())?;
            Ok(())
        };
        let outcome = update(&input, &folder, key, build, qcow2.then_some(convert))?;
        Ok(outcome.changed)
    }

    fn done(&self) -> (u32, u32) {
        (self.built.get(), self.converted.get())
    }

    /// Name and contents of each image in the folder.
    fn found(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir.path().join("out"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // The bill of materials is compared with the image's name below.
            if name == SBOM {
                let text = fs::read_to_string(self.dir.path().join("out").join(SBOM))?;
                let image = fs::read_to_string(self.dir.path().join("out").join(IMAGE))?;
                assert_eq!(text, format!("parts of {image}"));
            } else if name != manifest::FILE {
                let text = fs::read_to_string(self.dir.path().join("out").join(&name))?;
                found.push((name, text));
            }
        }
        found.sort();
        let manifest = Manifest::read(&self.dir.path().join("out"))?.unwrap_or_default();
        for (name, text) in &found {
            assert_eq!(manifest.outputs[name], digest(text.as_bytes()), "{name}");
        }
        assert!(manifest.outputs.contains_key(SBOM));
        assert_eq!(manifest.outputs.len(), found.len() + 1);
        Ok(found)
    }
}

fn files(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter()
        .map(|(n, t)| ((*n).to_owned(), (*t).to_owned()))
        .collect()
}

#[test]
fn qcow2_image_is_made_on_request_and_once() -> Result<()> {
    let bench = Bench::new()?;
    assert!(bench.image("one", false)?);
    assert_eq!(bench.found()?, files(&[("node.raw", "one")]));
    assert!(
        bench.image("one", true)?,
        "the image exists, its qcow2 form does not"
    );
    let both = files(&[("node.qcow2", "qcow2 of one"), ("node.raw", "one")]);
    assert_eq!((bench.found()?, bench.done()), (both.clone(), (1, 1)));
    assert!(!bench.image("one", true)? && !bench.image("one", false)?);
    assert_eq!((bench.found()?, bench.done()), (both.clone(), (1, 1)));
    fs::write(bench.dir.path().join("out/node.qcow2"), "damaged")?;
    assert!(bench.image("one", true)?);
    assert_eq!((bench.found()?, bench.done()), (both, (1, 2)));
    Ok(())
}

#[test]
fn qcow2_of_an_earlier_image_is_removed() -> Result<()> {
    let bench = Bench::new()?;
    bench.image("one", true)?;
    bench.image("two", true)?;
    let both = files(&[("node.qcow2", "qcow2 of two"), ("node.raw", "two")]);
    assert_eq!(bench.found()?, both);
    let error = format!("{:#}", bench.image("bad", true).expect_err("no space"));
    assert_eq!((error.as_str(), bench.found()?), ("no space", both));
    bench.image("three", false)?;
    assert_eq!(bench.found()?, files(&[("node.raw", "three")]));
    Ok(())
}

#[test]
fn documents_for_an_image_are_those_that_imagegen_wrote() -> Result<()> {
    let bench = Bench::new()?;
    let input = read(&Request {
        topology: bench.dir.path().join("cluster.yaml"),
        package: None,
        output: None,
    })?;
    let out = bench.dir.path().join("out");
    let folder = Folder::open(&out)?;
    let refusal = || match documents(&input, &folder) {
        Ok(files) => format!("{} files", files.len()),
        Err(error) => format!("{error:#}"),
    };
    assert!(
        refusal().contains("run `imagegen userdata"),
        "{}",
        refusal()
    );

    super::super::userdata(&input, &folder)?;
    let files = documents(&input, &folder)?;
    assert_eq!(files.len(), 3 * input.plan.hosts.len());
    let (_, bytes) = files
        .iter()
        .find(|(name, _)| name == "hosts/m0/user-data")
        .context("the document of m0")?;
    assert_eq!(*bytes, fs::read(out.join("hosts/m0/user-data"))?);

    fs::write(out.join("hosts/m0/meta-data"), "instance-id: x\n")?;
    assert!(
        refusal().contains("is not the file that imagegen wrote"),
        "{}",
        refusal()
    );
    Ok(())
}
