//! Files of upstream in the cache, by their SHA-256. An interrupted download goes on where it
//! stopped; a file gets its name in the cache only after its checksum has been compared.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use build_tools::cache::{Cache, Key};
use build_tools::progress::{Progress, Stage};

use super::checksum::{self, Pin};
use super::curl::{Curl, Fault, Next};
use super::parallel::Stop;

/// Tries in a row that bring no byte.
const TRIES: u32 = 3;
/// Tries that bring some: a connection that breaks so often brings no image either.
const PARTS: u32 = 100;
/// Time before the second try; before each further one it is twice the last.
const PAUSE: Duration = Duration::from_millis(500);

/// A file to fetch.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) url: String,
    /// The URL of its checksums, where upstream publishes some.
    pub(super) checksums: Option<String>,
}

impl Wanted {
    pub(super) fn name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or(&self.url)
    }
}

/// A file in the cache.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    pub(super) path: PathBuf,
    pub(super) sha256: String,
    /// What the SHA-256 was compared with.
    pub(super) proof: Proof,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// A checksum file of the same server.
    Checksums,
    /// `--sha256`.
    Pin,
    /// Nothing: upstream publishes no checksum.
    None,
}

#[derive(Debug)]
pub(super) struct Fetcher<'a> {
    pub(super) curl: Curl,
    pub(super) pins: &'a [Pin],
    pub(super) stop: Stop,
    pub(super) progress: &'a Progress,
    folder: PathBuf,
    /// Downloads under way.
    active: Mutex<Vec<(PathBuf, Stage)>>,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(
        cache: &Cache,
        curl: Curl,
        pins: &'a [Pin],
        progress: &'a Progress,
    ) -> Result<Self> {
        let folder = cache.root().join("upstream");
        for name in ["files", "parts", "urls"] {
            let path = folder.join(name);
            fs::create_dir_all(&path)
                .with_context(|| format!("creating the cache folder `{}`", path.display()))?;
        }
        Ok(Self {
            curl,
            pins,
            stop: Stop::default(),
            progress,
            folder,
            active: Mutex::default(),
        })
    }

    /// Shows how much of each download is here.
    pub(super) fn show(&self) {
        for (part, stage) in self.active().iter() {
            let size = fs::metadata(part).map_or(0, |meta| meta.len());
            stage.at(format_args!("{:.1} MiB", size as f64 / f64::from(1 << 20)));
        }
    }

    /// A short text, such as a version or checksums.
    pub(super) fn text(&self, url: &str) -> Result<String> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.curl.text(url) {
                Ok(text) => return Ok(text),
                Err(fault) if fault.next == Next::GiveUp || self.stop.is_set() => {
                    bail!(fault.text)
                }
                Err(_) => self.stop.wait(pause),
            }
            pause *= 2;
        }
        self.curl
            .text(url)
            .map_err(|fault| anyhow::anyhow!(fault.text))
    }

    /// The file, from the cache or from its server.
    pub(super) fn get(&self, wanted: &Wanted) -> Result<Fetched> {
        let (expected, proof) = self.expected(wanted)?;
        // Two imagegens do not write to one part.
        let key = Key::new("upstream", 1).with("url", &wanted.url).hex();
        let part = self.folder.join("parts").join(&key);
        let lock = self.folder.join("parts").join(format!("{key}.lock"));
        let lock = File::create(&lock)
            .and_then(|file| file.lock().map(|()| file))
            .with_context(|| format!("locking `{}`", lock.display()))?;
        let url_entry = self.folder.join("urls").join(&key);
        let known = match &expected {
            Some(sha256) => Some(sha256.clone()),
            None => fs::read_to_string(&url_entry)
                .ok()
                .filter(|text| checksum::is_sha256(text)),
        };
        let sha256 = match known {
            Some(sha256) if self.is_cached(&sha256)? => sha256,
            _ => {
                let sha256 = self.download(wanted, expected.as_deref(), &part)?;
                if proof == Proof::None {
                    replace(&url_entry, sha256.as_bytes())?;
                }
                sha256
            }
        };
        drop(lock);
        let path = self.folder.join("files").join(&sha256);
        Ok(Fetched {
            path,
            sha256,
            proof,
        })
    }

    /// The SHA-256 that the file must have.
    fn expected(&self, wanted: &Wanted) -> Result<(Option<String>, Proof)> {
        let name = wanted.name();
        if let Some(pin) = self.pins.iter().find(|pin| pin.name == name) {
            return Ok((Some(pin.sha256.clone()), Proof::Pin));
        }
        let Some(url) = &wanted.checksums else {
            return Ok((None, Proof::None));
        };
        let text = self.text(url)?;
        let found = checksum::find(&text, name).with_context(|| {
            format!(
                "`{url}` has no SHA-256 of `{name}`; is it a page of a web server? Take another \
                 `--mirror`, or give the digest with `--sha256 {name}=HEX`"
            )
        })?;
        Ok((Some(found), Proof::Checksums))
    }

    /// Whether the cache has the file, with the bytes that it had.
    fn is_cached(&self, sha256: &str) -> Result<bool> {
        let path = self.folder.join("files").join(sha256);
        if !path.is_file() {
            return Ok(false);
        }
        if checksum::of(&path)? == sha256 {
            return Ok(true);
        }
        log::warn!(
            "`{}` has changed in the cache; fetching it again",
            path.display()
        );
        remove(&path)?;
        Ok(false)
    }

    /// Fetches to `part`, compares, and gives the file its name; returns its SHA-256.
    fn download(&self, wanted: &Wanted, expected: Option<&str>, part: &Path) -> Result<String> {
        let stage = self.progress.stage(wanted.name());
        self.active().push((part.to_owned(), stage));
        let result = self.compared(wanted, expected, part);
        let mut active = self.active();
        let place = active.iter().position(|(path, _)| path == part);
        let stage = place.map(|place| active.remove(place).1);
        drop(active);
        let sha256 = result?;
        self.publish(part, &sha256)?;
        if let Some(stage) = stage {
            stage.done();
        }
        Ok(sha256)
    }

    fn active(&self) -> MutexGuard<'_, Vec<(PathBuf, Stage)>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compared(&self, wanted: &Wanted, expected: Option<&str>, part: &Path) -> Result<String> {
        // Without a checksum, what an earlier run left cannot be proved to be of the same file.
        if expected.is_none() {
            remove(part)?;
        }
        let mut resumed = part.exists();
        // A run that ended between the last byte and the name left a whole file.
        if let (true, Some(expected)) = (resumed, expected)
            && checksum::of(part)? == expected
        {
            return Ok(expected.to_owned());
        }
        loop {
            self.transfer(&wanted.url, part)?;
            let sha256 = checksum::of(part)?;
            match expected {
                Some(expected) if expected != sha256 => {
                    remove(part)?;
                    if !std::mem::take(&mut resumed) {
                        return Err(self.mismatch(wanted, expected, &sha256));
                    }
                    // The part was of other bytes. From its start, the file may be right.
                }
                _ => return Ok(sha256),
            }
        }
    }

    fn mismatch(&self, wanted: &Wanted, expected: &str, found: &str) -> anyhow::Error {
        let source = match &wanted.checksums {
            Some(url) if !self.pins.iter().any(|pin| pin.name == wanted.name()) => {
                format!("`{url}` has")
            }
            _ => "`--sha256` has".to_owned(),
        };
        anyhow::anyhow!(
            "`{}` has the SHA-256 {found}, and {source} {expected}; the file is removed. Run the \
             command again, and if it fails again, take another `--mirror`",
            wanted.url
        )
    }

    /// Downloads the rest of a file, over as many connections as it takes.
    fn transfer(&self, url: &str, part: &Path) -> Result<()> {
        let size = || fs::metadata(part).map_or(0, |meta| meta.len());
        let (mut tries, mut pause, mut restarted) = (0, PAUSE, false);
        for _ in 0..PARTS {
            let before = size();
            let Err(Fault { text, next }) = self.curl.file(url, part) else {
                return Ok(());
            };
            log::debug!("{text}");
            match next {
                Next::Restart if !restarted && before > 0 => {
                    restarted = true;
                    remove(part)?;
                    continue;
                }
                Next::Resume if size() > before => (tries, pause) = (0, PAUSE),
                Next::Resume => tries += 1,
                Next::Restart | Next::GiveUp => bail!(text),
            }
            if tries == TRIES || self.stop.is_set() {
                bail!(text);
            }
            self.stop.wait(pause);
            pause *= 2;
        }
        bail!("downloading `{url}`: the connection broke {PARTS} times; run the command again")
    }

    /// Gives a whole file its name, after its bytes have reached the disk.
    fn publish(&self, part: &Path, sha256: &str) -> Result<()> {
        let path = self.folder.join("files").join(sha256);
        File::open(part)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(part, &path))
            .with_context(|| format!("writing `{}`", path.display()))
    }
}

/// Writes a small file whole or not at all.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let writing = || format!("writing `{}`", path.display());
    let parent = path.parent().with_context(writing)?;
    let mut file = tempfile::NamedTempFile::new_in(parent).with_context(writing)?;
    std::io::Write::write_all(&mut file, bytes).with_context(writing)?;
    file.persist(path).with_context(writing)?;
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing `{}`", path.display()))
        }
        _ => Ok(()),
    }
}
