//! Images by skopeo, which knows registries, their credentials and their tokens. Layers are kept by
//! digest in one folder, so none is fetched twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use build_tools::cache::{Cache, hex};
use build_tools::process;
use build_tools::progress::Progress;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::fetch::replace;
use super::layout::{Blob, Descriptor, Manifest};
use super::mirror::{self, Mirror};
use crate::cli::Arch;

/// skopeo's own tries for each request.
const TRIES: &str = "2";
/// skopeo waits for a silent registry without end; no image takes so long.
const LONGEST: &str = "1h";

#[derive(Debug)]
pub(super) struct Skopeo<'a> {
    program: PathBuf,
    folder: PathBuf,
    arch: Arch,
    registries: &'a [Mirror],
    /// A folder with a site's authority.
    authorities: Option<&'a Path>,
    progress: &'a Progress,
}

/// An image whose parts are all in the cache.
#[derive(Debug, Clone)]
pub(super) struct Pulled {
    /// The full name that Kubernetes asks for.
    pub(super) name: String,
    /// Of what the registry has under the name, for all architectures.
    pub(super) digest: String,
    pub(super) manifest: Descriptor,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// An OCI layout's `index.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

impl<'a> Skopeo<'a> {
    pub(super) fn new(
        cache: &Cache,
        arch: Arch,
        registries: &'a [Mirror],
        authorities: Option<&'a Path>,
        progress: &'a Progress,
    ) -> Result<Self> {
        let folder = cache.root().join("upstream");
        for name in ["blobs", "images"] {
            let path = folder.join(name);
            fs::create_dir_all(&path)
                .with_context(|| format!("creating the cache folder `{}`", path.display()))?;
        }
        Ok(Self {
            program: process::require("skopeo", "skopeo")?,
            folder,
            arch,
            registries,
            authorities,
            progress,
        })
    }

    /// The file of a blob in the cache.
    pub(super) fn blob(&self, digest: &str) -> PathBuf {
        self.folder.join("blobs").join(digest.replacen(':', "/", 1))
    }

    /// Makes sure that all parts of the image are in the cache.
    pub(super) fn pull(&self, name: &str) -> Result<Pulled> {
        let source = mirror::image(self.registries, name);
        let raw = self.run("inspect", &source, |command| {
            command.arg("--raw");
            command.arg(format!("docker://{source}"));
        })?;
        let digest = format!("sha256:{}", hex(&Sha256::digest(&raw)));
        // What skopeo made of the image for this architecture.
        let known = self.folder.join("images").join(format!(
            "{}-{}.json",
            digest.trim_start_matches("sha256:"),
            self.arch.kubernetes()
        ));
        if let Ok(text) = fs::read(&known)
            && let Some(pulled) = self.complete(name, &digest, &text)?
        {
            return Ok(pulled);
        }
        let stage = self.progress.stage(name);
        let scratch = tempfile::tempdir_in(&self.folder).context("creating a temporary folder")?;
        let repository = without_tag(&source);
        self.run("copy", &source, |command| {
            command.args(["--quiet", "--dest-shared-blob-dir"]);
            command.arg(self.folder.join("blobs"));
            // By digest: the same image as was just named, whatever happens to the tag.
            command.arg(format!("docker://{repository}@{digest}"));
            command.arg(format!("oci:{}:image", scratch.path().display()));
        })?;
        let index = scratch.path().join("index.json");
        let text = fs::read(&index).with_context(|| format!("reading `{}`", index.display()))?;
        let pulled = self.complete(name, &digest, &text)?.with_context(|| {
            format!("skopeo copied `{source}` and left a part of it out; run the command again")
        })?;
        replace(&known, &text)?;
        stage.done();
        Ok(pulled)
    }

    /// The image of an OCI layout's index, if the cache has all its blobs.
    fn complete(&self, name: &str, digest: &str, index: &[u8]) -> Result<Option<Pulled>> {
        let index: Index = serde_json::from_slice(index).context("reading skopeo's index.json")?;
        let Some(manifest) = index.manifests.into_iter().next() else {
            return Ok(None);
        };
        let Ok(text) = fs::read(self.blob(&manifest.digest)) else {
            return Ok(None);
        };
        let parts: Manifest = serde_json::from_slice(&text)
            .with_context(|| format!("reading the manifest of `{name}`"))?;
        let whole = |blob: &Descriptor| {
            fs::metadata(self.blob(&blob.digest)).is_ok_and(|meta| meta.len() == blob.size)
        };
        if !parts.layers.iter().chain([&parts.config]).all(whole) {
            return Ok(None);
        }
        self.check_architecture(name, &parts.config)?;
        Ok(Some(Pulled {
            name: name.to_owned(),
            digest: digest.to_owned(),
            manifest,
            config: parts.config,
            layers: parts.layers,
        }))
    }

    /// skopeo takes an image of one architecture whatever that is.
    fn check_architecture(&self, name: &str, config: &Descriptor) -> Result<()> {
        #[derive(Deserialize)]
        struct Config {
            architecture: String,
        }
        let path = self.blob(&config.digest);
        let text = fs::read(&path).with_context(|| format!("reading `{}`", path.display()))?;
        let found: Config = serde_json::from_slice(&text)
            .with_context(|| format!("reading the configuration of the image `{name}`"))?;
        ensure!(
            found.architecture == self.arch.kubernetes(),
            "the image `{name}` is for {}, and the package for {}; name an image that its \
             registry has for {1}",
            found.architecture,
            self.arch.kubernetes()
        );
        Ok(())
    }

    fn run(&self, action: &str, source: &str, more: impl FnOnce(&mut Command)) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.program);
        command.args(["--override-os", "linux", "--override-arch"]);
        command.arg(self.arch.kubernetes());
        command.args(["--command-timeout", LONGEST]);
        // A site's policy for signatures holds; without one, skopeo would refuse every image.
        if !has_policy() {
            command.arg("--insecure-policy");
        }
        command.args([action, "--retry-times", TRIES]);
        let (certificates, authfile) = match action {
            "copy" => ("--src-cert-dir", "--src-authfile"),
            _ => ("--cert-dir", "--authfile"),
        };
        if let Some(folder) = self.authorities {
            command.arg(certificates).arg(folder);
        }
        let credentials = credentials();
        if let Some(file) = &credentials {
            command.arg(authfile).arg(file);
        }
        more(&mut command);
        let done = process::capture(&mut command)
            .with_context(|| format!("pulling the image `{source}`"))?;
        if done.status.success() {
            return Ok(done.stdout);
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let said = message(&said);
        bail!(
            "pulling the image `{source}`: {}",
            explain(source, &said, credentials.as_deref())
        );
    }
}

impl Blob for Skopeo<'_> {
    fn path(&self, digest: &str) -> PathBuf {
        self.blob(digest)
    }
}

fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// containers-policy.json(5): the files that skopeo reads.
fn has_policy() -> bool {
    let own = std::env::var_os("HOME").is_some_and(|home| {
        Path::new(&home)
            .join(".config/containers/policy.json")
            .is_file()
    });
    own || Path::new("/etc/containers/policy.json").is_file()
}

/// docker's configuration with credentials. `REGISTRY_AUTH_FILE` is left to skopeo.
fn credentials() -> Option<PathBuf> {
    if std::env::var_os("REGISTRY_AUTH_FILE").is_some() {
        return None;
    }
    let folder = match std::env::var_os("DOCKER_CONFIG") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => Path::new(&std::env::var_os("HOME")?).join(".docker"),
    };
    let file = folder.join("config.json");
    file.is_file().then_some(file)
}

/// What skopeo says at its end: `time="…" level=fatal msg="…"`.
fn message(stderr: &str) -> String {
    let last = stderr.trim().lines().last().unwrap_or("skopeo was ended");
    match last.split_once("msg=\"") {
        Some((_, text)) => text.strip_suffix('"').unwrap_or(text).replace("\\\"", "\""),
        None => last.to_owned(),
    }
}

/// Adds what helps to what skopeo says.
fn explain(source: &str, said: &str, credentials: Option<&Path>) -> String {
    let host = source.split('/').next().unwrap_or(source);
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    // Not bare numbers: digests have them too.
    let refused = ["unauthorized", "authentication required", "denied"];
    let cure = if has(&refused) || has(&["registry 403", "StatusCode: 403"]) {
        let file = match credentials {
            Some(file) => format!("`{}` has none that it takes", file.display()),
            None => "there is no ~/.docker/config.json".to_owned(),
        };
        format!(
            "the registry asks for credentials, and {file}; run `docker login {host}`, or \
             `skopeo login --authfile ~/.docker/config.json {host}`, and run the command again"
        )
    } else if has(&[
        "manifest unknown",
        "name unknown",
        "registry 404",
        "StatusCode: 404",
    ]) {
        "the registry has no such image; compare the name and `--registry`".to_owned()
    } else if has(&["x509", "certificate"]) {
        "if the registry's authority is your own, give its certificate with `--ca FILE`".to_owned()
    } else if has(&["did not match", "does not match", "Digest", "digest"]) {
        "the registry sends other bytes than it names; take another `--registry`".to_owned()
    } else if has(&[
        "no image found in manifest list",
        "no image found in image index",
    ]) {
        "the image is not published for the architecture of `--arch`".to_owned()
    } else if has(&["no space left"]) {
        "the disk of the cache is full; FIRSTLIGHT_CACHE sets another".to_owned()
    } else {
        "run the command again, it goes on where it stopped; `--registry` names a mirror".to_owned()
    };
    format!("{said}\n  {cure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_message_of_skopeo_is_found() {
        let text =
            "time=\"a\" level=warning msg=\"b\"\ntime=\"a\" level=fatal msg=\"say \\\"c\\\"\"\n";
        assert_eq!(message(text), "say \"c\"");
        assert_eq!(message("plain\n"), "plain");
    }

    #[test]
    fn tags_are_taken_off() {
        assert_eq!(
            without_tag("localhost:5000/pause:3.2"),
            "localhost:5000/pause"
        );
        assert_eq!(without_tag("localhost:5000/pause"), "localhost:5000/pause");
    }
}
