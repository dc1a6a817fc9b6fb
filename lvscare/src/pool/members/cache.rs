//! The last discovered list, for a start without a reachable apiserver.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::yaml;

#[derive(Debug, Serialize, Deserialize)]
struct Text {
    members: Vec<SocketAddr>,
}

#[derive(Debug)]
pub struct Cache(PathBuf);

impl Cache {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// `Ok(None)`: no cache yet.
    pub fn read(&self) -> anyhow::Result<Option<Vec<SocketAddr>>> {
        if !self.0.exists() {
            return Ok(None);
        }
        yaml::read::<Text>(&self.0).map(|text| Some(text.members))
    }

    /// Replaces the file atomically.
    pub fn write(&self, members: &[SocketAddr]) -> anyhow::Result<()> {
        let text = serde_json::to_vec(&Text {
            members: members.to_vec(),
        })?;
        self.replace(&text)
            .with_context(|| format!("writing `{}`", self.0.display()))
    }

    fn replace(&self, text: &[u8]) -> std::io::Result<()> {
        let folder = self.0.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        let new = self.0.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        File::open(folder)?.sync_all()
    }
}
