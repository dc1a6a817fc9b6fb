//! Certificate authorities that the host trusts.
//!
//! `update-ca-certificates` makes the bundle and the links; its own folders are on the read-only
//! image, so it reads ours.

use std::fmt;

use anyhow::{Context, Result};

use super::Step;
use crate::applied::{Applied, digest};
use crate::report::Reporter;
use crate::system::command;
use crate::system::files::{Attributes, Root};
use userdata::cloud_config::CaCerts as Wanted;

/// Our folder; the tool takes files that end in `.crt`.
const FOLDER: &str = "/etc/firstlight/ca-certificates";
/// An empty list of the image's authorities.
const NONE: &str = "/etc/firstlight/no-ca-certificates.conf";
const PREFIX: &str = "document-";
/// In the record.
const KEY: &str = "ca-certs";

/// Set once for an instance: a person may add and remove authorities.
#[derive(Debug)]
pub struct CaCerts {
    pub root: Root,
    pub wanted: Wanted,
    pub instance: String,
}

impl fmt::Display for CaCerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.certificates().len();
        if self.wanted.remove_defaults {
            write!(f, "trust {count} certificate authorities and no others")
        } else {
            write!(f, "trust {count} more certificate authorities")
        }
    }
}

impl Step for CaCerts {
    fn name(&self) -> &'static str {
        "ca-certs"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(Applied::open(&self.root, &self.instance)?.has(KEY, &self.parts()))
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        let certificates = self.certificates();
        let names: Vec<String> = (1..=certificates.len())
            .map(|number| format!("{PREFIX}{number}.crt"))
            .collect();
        for name in self.root.list(FOLDER)? {
            if name.starts_with(PREFIX) && !names.contains(&name) {
                self.root.remove(format!("{FOLDER}/{name}"))?;
            }
        }
        let mode = Attributes::mode(0o644);
        for (name, text) in names.iter().zip(&certificates) {
            self.root
                .write(format!("{FOLDER}/{name}"), text.as_bytes(), mode)?;
        }
        if self.wanted.remove_defaults {
            self.root.write(NONE, b"", mode)?;
        }
        if self.root.is_machine() {
            command::run("update-ca-certificates", &self.arguments())
                .context("adding certificate authorities")?;
        }
        let mut record = Applied::open(&self.root, &self.instance)?;
        record.set(KEY, self.parts());
        record.save()
    }
}

impl CaCerts {
    fn arguments(&self) -> Vec<&'static str> {
        // `--fresh` removes what an earlier document brought.
        let mut arguments = vec!["--fresh", "--localcertsdir", FOLDER];
        if self.wanted.remove_defaults {
            arguments.extend(["--certsconf", NONE]);
        }
        arguments
    }

    /// One for each file: the tool links a file by its first certificate.
    fn certificates(&self) -> Vec<String> {
        const END: &str = "-----END CERTIFICATE-----";
        let all = self.wanted.trusted.iter();
        let pieces = all.flat_map(|text| text.split_inclusive(END));
        let certificates = pieces.filter_map(|piece| {
            let start = piece.find("-----BEGIN CERTIFICATE-----")?;
            Some(format!("{}\n", &piece[start..]))
        });
        certificates.collect()
    }

    fn parts(&self) -> Vec<String> {
        let defaults = [u8::from(self.wanted.remove_defaults)];
        let texts = self.wanted.trusted.iter().map(String::as_bytes);
        vec![digest(texts.chain([defaults.as_slice()]))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_certificate_gets_a_file_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let certificate = |body: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        };
        let step = |trusted: Vec<String>| CaCerts {
            root: root.clone(),
            wanted: Wanted {
                remove_defaults: false,
                trusted,
            },
            instance: "i".to_owned(),
        };
        let pair = format!("# two\n{}# and\n{}", certificate("A"), certificate("B"));
        let first = step(vec![pair, certificate("C")]);
        assert!(!first.is_done().unwrap());
        first.apply(&mut Reporter::silent(&root)).unwrap();
        assert!(first.is_done().unwrap());
        let file = |n: u8| root.read(format!("{FOLDER}/document-{n}.crt")).unwrap();
        assert_eq!(file(2).unwrap(), certificate("B").into_bytes());
        assert_eq!(file(3).unwrap(), certificate("C").into_bytes());
        // A person's own file stays.
        root.write(format!("{FOLDER}/own.crt"), b"x", Attributes::mode(0o644))
            .unwrap();
        let second = step(vec![certificate("C")]);
        assert!(!second.is_done().unwrap());
        second.apply(&mut Reporter::silent(&root)).unwrap();
        assert_eq!(root.list(FOLDER).unwrap(), ["document-1.crt", "own.crt"]);
    }
}
