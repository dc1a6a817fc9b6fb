//! The root as a compressed read-only file system, and the hash tree by which the kernel checks
//! every block of it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use build_tools::cache::hex;
use build_tools::debian_tree::{SOURCE_DATE_EPOCH, Tree};
use build_tools::process;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// lz4 with clusters of 64 KiB: boot gains more from fast decompression than from the last tenth of
/// size.
pub const MKFS: &[&str] = &[
    "--quiet",
    "-zlz4hc,9",
    "-C65536",
    "-Ededupe",
    "--mkfs-time",
    "--tar=f",
];

/// Fixed, so that equal roots have equal hash trees.
const SALT: &[u8] = b"firstlight verity salt";

/// Converts the tar archive `tar` to the erofs image `out`.
pub fn erofs(tools: &Tree, tar: &Path, out: &Path) -> Result<()> {
    let mut mkfs = tools.program("mkfs.erofs")?;
    mkfs.args(MKFS);
    mkfs.arg(format!("-T{SOURCE_DATE_EPOCH}"));
    mkfs.arg(format!("-U{}", id("root", b"")));
    process::run(mkfs.arg(out).arg(tar))
}

/// Writes the hash tree of `data` to `tree`; returns the root hash in hexadecimal.
pub fn format(tools: &Tree, data: &Path, tree: &Path) -> Result<String> {
    std::fs::File::create(tree).with_context(|| format!("creating `{}`", tree.display()))?;
    let mut veritysetup = tools.program("veritysetup")?;
    veritysetup.arg("format").arg(data).arg(tree);
    veritysetup.arg(format!("--salt={}", hex(&Sha256::digest(SALT))));
    veritysetup.arg(format!("--uuid={}", id("verity", b"")));
    let output = process::output(&mut veritysetup)?;
    let output = String::from_utf8_lossy(&output);
    let hash = output
        .lines()
        .find_map(|line| line.strip_prefix("Root hash:"))
        .map(str::trim)
        .context("`veritysetup format` printed no root hash")?;
    ensure!(
        hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()),
        "`{hash}` is not a SHA-256 root hash"
    );
    Ok(hash.to_owned())
}

/// An identifier derived from purpose and content.
pub fn id(purpose: &str, content: &[u8]) -> Uuid {
    let digest = Sha256::new()
        .chain_update(b"firstlight ")
        .chain_update(purpose)
        .chain_update(content)
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Partition ids of root and hash tree, by the Discoverable Partitions Specification the two halves
/// of the root hash.
pub fn partition_ids(root_hash: &str) -> Result<(Uuid, Uuid)> {
    ensure!(
        root_hash.len() == 64,
        "`{root_hash}` is not a SHA-256 root hash"
    );
    let half = |text: &str| {
        Uuid::try_parse(text).with_context(|| format!("`{text}` is not half of a root hash"))
    };
    Ok((half(&root_hash[..32])?, half(&root_hash[32..])?))
}

/// The part of the image's key that this module decides.
pub(super) fn recipe() -> String {
    format!("{:?}", (MKFS, SALT, id("root", b""), id("verity", b"")))
}
