//! The root as a compressed read-only file system, and the hash tree that lets the kernel check every block of it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use build_tools::debian_tree::{SOURCE_DATE_EPOCH, Tree};
use build_tools::process;

/// Turns the tar archive `tar` into the erofs image `out`.
pub fn erofs(tools: &Tree, tar: &Path, out: &Path) -> Result<()> {
    let mut mkfs: Command = tools.program("mkfs.erofs")?;
    // lz4 and clusters of 64 KiB: at boot, unpacking speed is worth more than the last tenth of size.
    mkfs.args(["--quiet", "-zlz4hc,9", "-C65536", "-Ededupe"]);
    mkfs.arg(format!("-T{SOURCE_DATE_EPOCH}"))
        .arg("--mkfs-time");
    mkfs.arg(format!("-U{}", id("root", b"")));
    mkfs.arg("--tar=f").arg(out).arg(tar);
    process::run(&mut mkfs)
}

/// Writes the hash tree of `data` to `tree`; returns the root hash in hexadecimal.
pub fn format(tools: &Tree, data: &Path, tree: &Path) -> Result<String> {
    std::fs::File::create(tree).with_context(|| format!("creating `{}`", tree.display()))?;
    let mut veritysetup = tools.program("veritysetup")?;
    veritysetup.arg("format").arg(data).arg(tree);
    // The salt makes equal blocks of different images hash differently; it must be fixed for equal images to be equal.
    veritysetup.arg(format!(
        "--salt={}",
        build_tools::cache::hex(&Sha256::digest(b"firstlight verity salt"))
    ));
    veritysetup.arg(format!("--uuid={}", id("verity", b"")));
    let said = process::output(&mut veritysetup)?;
    let said = String::from_utf8_lossy(&said);
    let hash = said
        .lines()
        .find_map(|line| line.strip_prefix("Root hash:"))
        .map(str::trim)
        .context("`veritysetup format` did not tell the root hash")?;
    ensure!(
        hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()),
        "`{hash}` is not a SHA-256 root hash"
    );
    Ok(hash.to_owned())
}

/// An identifier that is the same for the same purpose and content.
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

/// Partition ids by the Discoverable Partitions Specification: the halves of the root hash.
pub fn partition_ids(root_hash: &str) -> Result<(Uuid, Uuid)> {
    ensure!(
        root_hash.len() == 64,
        "`{root_hash}` is not a SHA-256 root hash"
    );
    let half = |text: &str| {
        Uuid::try_parse(text).with_context(|| format!("`{text}` is not half a root hash"))
    };
    Ok((half(&root_hash[..32])?, half(&root_hash[32..])?))
}
