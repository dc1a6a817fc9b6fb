//! What is written: the node image of an output folder, and the seed of one host.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use build_tools::progress::Progress;
use gpt::GptConfig;
use gpt::partition::Partition;
use sha2::{Digest as _, Sha256};

use super::MIB;
use crate::digest::{digest, text};
use crate::image::disk::STATE_MIN;
use crate::image::vfat::SECTOR;
use crate::output::manifest::{self, Manifest};

const IMAGE: &str = "node.raw";
const HOSTS: &str = "hosts";
const SEED: &str = "seed.img";

#[derive(Debug)]
pub struct Source {
    folder: PathBuf,
    host: String,
    path: PathBuf,
    pub(super) image: File,
    digest: String,
    pub(super) seed: Vec<u8>,
    /// By number, in sectors of 512 bytes.
    pub(super) table: BTreeMap<u32, Partition>,
    outputs: Vec<PathBuf>,
}

impl Source {
    /// Opens the image in `folder`, and reads and checks the seed of `host`. The image, which is
    /// large, has [its own check](Self::check_image).
    pub fn open(folder: &Path, host: &str) -> Result<Self> {
        let shown = folder.display();
        let Some(manifest) = Manifest::read(folder)? else {
            bail!(
                "`{shown}` has no `{}`: it is not an output folder of imagegen; give that folder \
                 with --output",
                manifest::FILE
            );
        };
        let known = |name: &str| manifest.outputs.get(name).cloned();
        let name = format!("{HOSTS}/{host}/{SEED}");
        let Some(expected) = known(&name) else {
            let hosts = hosts(&manifest);
            bail!("`{shown}` has no seed of the host `{host}`; its hosts are {hosts}");
        };
        let path = folder.join(&name);
        let seed = fs::read(&path).with_context(|| format!("reading `{}`", path.display()))?;
        ensure!(
            digest(&seed) == expected,
            "`{}` is not the file that imagegen wrote: its digest differs from the manifest's; \
             run imagegen again",
            path.display()
        );
        let path = folder.join(IMAGE);
        let image = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(
                "`{shown}` has no node image; make it with `imagegen image -t TOPOLOGY -o {shown}`"
            ),
            opened => opened.with_context(|| format!("opening `{}`", path.display()))?,
        };
        let digest = known(IMAGE)
            .with_context(|| format!("the manifest in `{shown}` has no digest of `{IMAGE}`"))?;
        let table = GptConfig::new()
            .open_from_device(&image)
            .with_context(|| format!("reading the partition table of `{}`", path.display()))?
            .take_partitions();
        ensure!(!table.is_empty(), "`{}` has no partitions", path.display());
        Ok(Self {
            folder: folder.to_owned(),
            host: host.to_owned(),
            image,
            digest,
            seed,
            table,
            outputs: manifest
                .outputs
                .keys()
                .map(|name| folder.join(name))
                .collect(),
            path,
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// The MAC address that the host's document names.
    pub fn mac(&self) -> Option<String> {
        let path = self
            .folder
            .join(HOSTS)
            .join(&self.host)
            .join("network-config");
        let text = fs::read_to_string(path).ok()?;
        let mut addresses = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("macaddress:"));
        let address = addresses.next()?.trim().trim_matches(['"', '\'']);
        Some(address.to_owned())
    }

    /// The end of the image's last partition.
    pub(super) fn end(&self) -> u64 {
        let ends = self.table.values().map(|entry| end(entry, SECTOR));
        ends.max().unwrap_or(0)
    }

    /// The size of the smallest disk: the second partition table needs less than a MiB.
    pub fn smallest_disk(&self) -> u64 {
        self.end() + STATE_MIN + MIB
    }

    /// First byte and length of a partition.
    pub(super) fn extent(entry: &Partition) -> (u64, u64) {
        let start = entry.first_lba * SECTOR;
        (start, end(entry, SECTOR) - start)
    }

    /// Whether a file is one of the folder's results, which must not be a target.
    pub(super) fn is_output(&self, target: &fs::Metadata) -> bool {
        self.outputs
            .iter()
            .filter_map(|path| fs::metadata(path).ok())
            .any(|meta| (meta.dev(), meta.ino()) == (target.dev(), target.ino()))
    }

    /// Compares the whole image with the digest in the manifest; the old contents of a disk are
    /// too good for half an image. This also reads the image into memory, so that the disk that is
    /// written does not wait for it.
    pub fn check_image(&self, progress: &Progress) -> Result<()> {
        let doing = || format!("reading `{}`", self.path.display());
        let total = self.image.metadata().with_context(doing)?.len();
        let stage = progress.bytes("checking the image", total);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; MIB as usize];
        let mut at = 0;
        loop {
            let got = self.image.read_at(&mut buffer, at).with_context(doing)?;
            if got == 0 {
                break;
            }
            hash.update(&buffer[..got]);
            at += got as u64;
            stage.advance(got as u64);
        }
        stage.done();
        ensure!(
            text(hash) == self.digest,
            "`{}` is damaged: its digest differs from the manifest's; make it again with \
             `imagegen image`",
            self.path.display()
        );
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn end(entry: &Partition, sector: u64) -> u64 {
    (entry.last_lba + 1) * sector
}

/// The hosts that have a seed, for an error message.
fn hosts(manifest: &Manifest) -> String {
    let names = manifest.outputs.keys().filter_map(|name| {
        let name = name.strip_prefix("hosts/")?.strip_suffix("/seed.img")?;
        Some(format!("`{name}`"))
    });
    let names: Vec<_> = names.collect();
    match names.len() {
        0 => "none".to_owned(),
        1..=12 => names.join(", "),
        more => format!("{} and {} more", names[..12].join(", "), more - 12),
    }
}
