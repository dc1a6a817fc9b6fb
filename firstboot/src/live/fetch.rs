//! Files of a boot server: large ones in parts, so that a break costs only a part, and small ones.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use ureq::Agent;
use ureq::http::{Request, Response};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// For one part: 70 KiB a second is slow for a network that machines boot from.
const PART_WITHIN: Duration = Duration::from_secs(120);
const PART: u64 = 8 << 20;
/// The files of a document, and a reason.
const SMALL: u64 = 4 << 20;

#[derive(Debug)]
pub struct Server {
    agent: Agent,
    base: String,
}

/// The answer to a request for a small file.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub bytes: Vec<u8>,
}

impl Answer {
    /// Why there is no file: the server's own words, or the status.
    pub fn reason(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        match text.lines().next().map(str::trim) {
            Some(line) if !line.is_empty() && line.len() < 300 => line.to_owned(),
            _ => format!("HTTP status {}", self.status),
        }
    }
}

impl Server {
    /// `base` ends with a slash.
    pub fn new(base: &str) -> Self {
        let agent = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            // The server names each file itself.
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_global(Some(PART_WITHIN))
            .build()
            .new_agent();
        Self {
            agent,
            base: base.to_owned(),
        }
    }

    pub fn url(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    /// A file of a few kilobytes, or why not.
    pub fn small(&self, name: &str) -> Result<Answer> {
        let request = Request::get(self.url(name))
            .body(())
            .context("building a request")?;
        let response = self.agent.run(request)?;
        Ok(Answer {
            status: response.status().as_u16(),
            bytes: bytes(response, SMALL)?,
        })
    }

    /// The size of a large file in bytes.
    pub fn size(&self, name: &str) -> Result<u64> {
        self.part(name, 0, 1).map(|(_, total)| total)
    }

    /// The next part of a file of `total` bytes, from `at` on; returns where the one after it
    /// begins.
    pub fn copy_part(&self, name: &str, at: u64, total: u64, to: &mut File) -> Result<u64> {
        let part = self.next_part(name, at, total)?;
        to.write_all(&part).context("keeping the root in memory")?;
        Ok(at + part.len() as u64)
    }

    /// The next part of a file of `total` bytes, behind those that are there.
    pub fn append_part(&self, name: &str, total: u64, to: &mut Vec<u8>) -> Result<()> {
        let part = self.next_part(name, to.len() as u64, total)?;
        to.extend(part);
        Ok(())
    }

    fn next_part(&self, name: &str, at: u64, total: u64) -> Result<Vec<u8>> {
        let length = PART.min(total - at);
        let (part, now) = self.part(name, at, length)?;
        ensure!(
            now == total && part.len() as u64 == length,
            "{}: the file changed while it was fetched",
            self.url(name)
        );
        Ok(part)
    }

    /// Bytes of a file, and the size of all of it.
    fn part(&self, name: &str, at: u64, length: u64) -> Result<(Vec<u8>, u64)> {
        let url = self.url(name);
        let request = Request::get(&url)
            .header("range", format!("bytes={at}-{}", at + length - 1))
            .body(())
            .context("building a request")?;
        let response = self
            .agent
            .run(request)
            .map_err(|error| anyhow!("{url}: {error}"))?;
        match response.status().as_u16() {
            206 => {}
            200 => bail!(
                "{url}: the server sends whole files only; use `imagegen serve`, or a web server \
                 that answers ranges"
            ),
            status => {
                let reason = Answer {
                    status,
                    bytes: bytes(response, SMALL).unwrap_or_default(),
                };
                bail!("{url}: {}", reason.reason());
            }
        }
        let range = response.headers().get("content-range");
        let total = range
            .and_then(|range| range.to_str().ok()?.rsplit_once('/')?.1.parse().ok())
            .with_context(|| format!("{url}: the server does not tell the file's size"))?;
        Ok((bytes(response, length)?, total))
    }
}

/// The body, which has at most `limit` bytes.
fn bytes(response: Response<ureq::Body>, limit: u64) -> Result<Vec<u8>> {
    let mut body = response.into_body();
    Ok(body.with_config().limit(limit + 1).read_to_vec()?)
}
