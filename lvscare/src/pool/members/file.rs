//! The file of `--config`, reloaded when it changes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::ensure;
use serde::Deserialize;

use crate::yaml;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    rs: Vec<SocketAddr>,
}

/// Modification time and inode: a file that replaces another may have the same time.
type Stamp = Option<(SystemTime, u64, u64)>;

#[derive(Debug)]
pub struct File {
    path: PathBuf,
    stamp: Stamp,
    servers: Vec<SocketAddr>,
}

impl File {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            stamp: None,
            servers: Vec::new(),
        }
    }

    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    pub fn keep(&mut self, servers: Vec<SocketAddr>) {
        self.servers = servers;
    }

    pub fn read(&mut self) -> anyhow::Result<()> {
        // Before reading, so that a change during reading is detected later.
        self.stamp = self.look();
        let Text { mut rs } = yaml::read(&self.path)?;
        ensure!(
            !rs.is_empty(),
            "`{}` names no real server",
            self.path.display()
        );
        let mut seen = Vec::new();
        rs.retain(|server| {
            let first = !seen.contains(server);
            seen.push(*server);
            first
        });
        self.servers = rs;
        Ok(())
    }

    /// `Ok(true)`: the servers changed. Returns an error once per change of the file.
    pub fn reread(&mut self) -> anyhow::Result<bool> {
        let stamp = self.look();
        // A missing file is being replaced.
        if stamp.is_none() || stamp == self.stamp {
            return Ok(false);
        }
        let before = self.servers.clone();
        self.read()?;
        Ok(before != self.servers)
    }

    fn look(&self) -> Stamp {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(&self.path).ok()?;
        Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
    }
}
