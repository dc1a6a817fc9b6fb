//! Makes the encrypted state partition on the first boot, and grows it on later ones.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount, umount};
use userdata::contract::{FIRST_KEY_DIR, POLICY_KEY, STATE_PARTITION};
use userdata::state_info::StateInfo;

use super::{header, info, obstacle};
use crate::state_partition::{self, SYSROOT};
use crate::system::files::Root;
use crate::system::machine::random_word;
use crate::system::{command, disks};

/// The folder of the first key while the partition is made.
const FOLDER: &str = "/run/firstlight/first-key";
/// Its name there and, for systemd-repart, in [`FIRST_KEY_DIR`] of the image.
const NAME: &str = "state.key";
/// Letters of five bits each: 260 bits.
const KEY_LENGTH: usize = 52;
/// Says that this boot has made the partition. On a tmpfs.
pub(super) const MADE: &str = "/run/firstlight/state-made";

/// `firstboot make-state`, in the place of systemd-repart alone.
pub fn make(root: &Root) -> Result<()> {
    let info = info(root)?.context("this image does not encrypt its state")?;
    let disk = state_partition::disk(root)?;
    let state = |partition: &disks::Partition| partition.name == STATE_PARTITION;
    if disks::partitions(root, &disk)?.iter().any(state) {
        // Nothing of it needs a key.
        return repart(&[]);
    }
    if let Some(obstacle) = obstacle(root, &info) {
        obstacle.record(root);
        return Err(obstacle.into());
    }
    make_new(&info)?;
    root.write_volatile(MADE, b"")?;
    let partition = state_partition::node(root, &disk)?;
    header::ensure_sealed(root, &partition, &info)
}

/// systemd-repart with a new first key, which it also copies into the partition.
fn make_new(info: &StateInfo) -> Result<()> {
    let result = first_key().and_then(|path| {
        let inside = format!("{SYSROOT}{FIRST_KEY_DIR}");
        let none = None::<&str>;
        mount(Some(FOLDER), inside.as_str(), none, MsFlags::MS_BIND, none)
            .with_context(|| format!("mounting `{inside}`"))?;
        let made = repart(&[
            format!("--key-file={path}"),
            "--tpm2-device=auto".to_owned(),
            format!("--tpm2-public-key={POLICY_KEY}"),
            format!("--tpm2-public-key-pcrs={}", header::SIGNED),
            format!("--tpm2-pcrs={}", info.registers()),
        ]);
        umount(inside.as_str()).with_context(|| format!("unmounting `{inside}`"))?;
        made
    });
    // It is in the partition now, or of no use.
    let removed = fs::remove_dir_all(FOLDER);
    result?;
    removed.with_context(|| format!("removing `{FOLDER}`"))
}

/// Writes a random key to a file of [`FOLDER`], and returns its path.
fn first_key() -> Result<String> {
    let path = format!("{FOLDER}/{NAME}");
    let doing = || format!("writing `{path}`");
    let text = random_word(KEY_LENGTH)?;
    let _ = fs::remove_dir_all(FOLDER);
    let mut folder = fs::DirBuilder::new();
    folder.recursive(true).mode(0o700);
    folder.create(FOLDER).with_context(doing)?;
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&path).with_context(doing)?;
    file.write_all(text.as_bytes()).with_context(doing)?;
    Ok(path)
}

fn repart(more: &[String]) -> Result<()> {
    let mut arguments = vec!["--dry-run=no".to_owned(), format!("--root={SYSROOT}")];
    arguments.extend_from_slice(more);
    command::run("systemd-repart", &arguments)
}
