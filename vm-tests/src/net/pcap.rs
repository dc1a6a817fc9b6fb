//! Writes frames to a file in libpcap's format (draft-ietf-opsawg-pcap).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;
const LONGEST: u32 = 262_144;

#[derive(Debug)]
pub struct Capture {
    file: BufWriter<File>,
}

impl Capture {
    pub fn create(path: &Path) -> Result<Self> {
        let mut file = BufWriter::new(
            File::create(path).with_context(|| format!("creating `{}`", path.display()))?,
        );
        for word in [MAGIC, 4 << 16 | 2, 0, 0, LONGEST, ETHERNET] {
            file.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { file })
    }

    /// Appends one frame. A full disk only loses frames of the capture.
    pub fn write(&mut self, frame: &[u8]) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let length = frame.len() as u32;
        for word in [now.as_secs() as u32, now.subsec_micros(), length, length] {
            let _ = self.file.write_all(&word.to_le_bytes());
        }
        let _ = self.file.write_all(frame).and_then(|()| self.file.flush());
    }
}
