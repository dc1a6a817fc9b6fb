//! Opens files of an output folder without following symbolic links.
//!
//! imagegen runs as root for images, and a link in the folder may lead anywhere. The kernel
//! resolves the path (`openat2`), so that no process can put a link into it between a check and its
//! use.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// The regular file `path` below the folder `root`, for reading; `None` if there is none. A link in
/// the place of `root` or below it is an error, and so is anything else than a file.
pub fn open(root: &Path, path: &Path) -> Result<Option<File>> {
    let Some(folder) = folder(root)? else {
        return Ok(None);
    };
    let doing = || format!("opening `{}`", root.join(path).display());
    // Opening a FIFO would wait for a writer.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let how = OpenHow::new().flags(flags).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    );
    let file = loop {
        match openat2(&folder, path, how) {
            Ok(file) => break File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            // A rename somewhere on the way interrupts the resolution.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(Errno::ELOOP) => return Err(link(&root.join(path))),
            Err(Errno::ENOSYS) => {
                return Err(anyhow!("the kernel has no openat2; use Linux 5.6 or later"))
                    .with_context(doing);
            }
            Err(error) => return Err(error).with_context(doing),
        }
    };
    let is_file = file.metadata().with_context(doing)?.is_file();
    ensure!(
        is_file,
        "`{}` is not a regular file; remove it",
        root.join(path).display()
    );
    Ok(Some(file))
}

/// The contents of [`open`].
pub fn read(root: &Path, path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(mut file) = open(root, path)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .with_context(|| format!("reading `{}`", root.join(path).display()))?;
    Ok(Some(bytes))
}

/// The folder `path`; `None` if there is none. A link to a folder is an error.
pub(super) fn folder(path: &Path) -> Result<Option<File>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path);
    match opened {
        Ok(folder) => Ok(Some(folder)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(_) if path.is_symlink() => Err(link(path)),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            bail!("`{}` is not a folder; remove it", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("opening `{}`", path.display())),
    }
}

fn link(path: &Path) -> anyhow::Error {
    anyhow!(
        "`{}` is or leads through a symbolic link, which imagegen does not follow in an output \
         folder; put the file itself there",
        path.display()
    )
}
