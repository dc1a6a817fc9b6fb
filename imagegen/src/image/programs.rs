//! The image's own programs: found beside imagegen, and checked to be static.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// Their names, in the folder and in the image's `/usr/bin`.
pub const NAMES: &[&str] = &["firstboot", "lvscare"];

/// `given`, else imagegen's own folder. Every program must exist in it and be static.
pub fn folder(given: Option<&Path>) -> Result<PathBuf> {
    let folder = match given {
        Some(folder) => folder.to_owned(),
        None => std::env::current_exe()
            .context("finding imagegen's own folder")?
            .parent()
            .context("imagegen has no folder")?
            .to_owned(),
    };
    for name in NAMES {
        let path = folder.join(name);
        let bytes = std::fs::read(&path).with_context(|| {
            format!(
                "reading `{}`; give the folder of the static programs with --programs, or build \
                 them: \
                 RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --target x86_64-unknown-linux-gnu -p {name}",
                path.display()
            )
        })?;
        ensure!(
            is_static(&bytes).with_context(|| format!("reading `{}`", path.display()))?,
            "`{}` is not static and needs libraries that the image does not have; \
             build it with RUSTFLAGS='-C target-feature=+crt-static' and --target x86_64-unknown-linux-gnu",
            path.display()
        );
    }
    Ok(folder)
}

/// Whether a 64-bit little-endian ELF program has no interpreter (System V ABI, PT_INTERP).
fn is_static(elf: &[u8]) -> Result<bool> {
    const INTERPRETER: u32 = 3;
    ensure!(
        elf.starts_with(b"\x7fELF\x02\x01"),
        "not a 64-bit ELF program"
    );
    let field = |offset: usize, len: usize| -> Result<u64> {
        let bytes = elf
            .get(offset..offset + len)
            .context("a truncated ELF program")?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    };
    let (table, size, count) = (field(32, 8)?, field(54, 2)?, field(56, 2)?);
    for number in 0..count {
        let header = usize::try_from(table + number * size).context("a damaged ELF program")?;
        if field(header, 4)? == u64::from(INTERPRETER) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_program_is_refused_with_the_cure() -> Result<()> {
        let dir = tempfile::tempdir()?;
        for name in NAMES {
            std::fs::copy("/bin/true", dir.path().join(name))?;
        }
        let text = format!("{:#}", folder(Some(dir.path())).expect_err("dynamic"));
        assert!(
            text.contains("not static") && text.contains("crt-static"),
            "{text}"
        );
        Ok(())
    }

    #[test]
    fn missing_program_is_named() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let text = format!("{:#}", folder(Some(dir.path())).expect_err("empty"));
        assert!(
            text.contains("firstboot") && text.contains("--programs"),
            "{text}"
        );
        Ok(())
    }
}
