//! One transfer by curl, which knows redirects, proxies (`HTTPS_PROXY`) and `~/.netrc`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use build_tools::process;

/// Checksum files and texts of versions are small; a page of a web server need not be read whole.
const TEXT_LIMIT: &str = "1048576";

/// For curl, not for Rust.
#[allow(clippy::literal_string_with_formatting_args)]
const STATUS: &str = "\n%{http_code}";

/// How curl reaches servers.
#[derive(Debug)]
pub(super) struct Curl {
    program: PathBuf,
    /// Authorities instead of the system's.
    authorities: Option<PathBuf>,
    /// Seconds after which a silent connection is given up.
    idle: u64,
}

/// Why a transfer failed, and what helps.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) text: String,
    pub(super) next: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The same again, from where it ended.
    Resume,
    /// The file has as many bytes as the server's or more, or the server sends no parts of files.
    Restart,
    /// Another try fails too.
    GiveUp,
}

impl Curl {
    pub(super) fn new(authorities: Option<PathBuf>, idle: u64) -> Result<Self> {
        Ok(Self {
            program: process::require("curl", "curl")?,
            authorities,
            idle,
        })
    }

    fn command(&self, url: &str) -> Command {
        let mut command = Command::new(&self.program);
        // `--disable` comes first: it keeps a person's ~/.curlrc out.
        command.args(["--disable", "--silent", "--show-error", "--fail"]);
        command.args(["--location", "--max-redirs", "10", "--netrc-optional"]);
        // A redirect must not leave TLS.
        let protocol = match url.starts_with("https://") {
            true => "=https",
            false => "=http,https",
        };
        command.args(["--proto", protocol, "--proto-redir", protocol]);
        command.args(["--connect-timeout", &self.idle.min(20).to_string()]);
        command.args(["--speed-limit", "1", "--speed-time"]);
        command.arg(self.idle.to_string());
        if let Some(file) = &self.authorities {
            command.arg("--cacert").arg(file);
        }
        command
    }

    /// Downloads to `part`, from its end on.
    pub(super) fn file(&self, url: &str, part: &Path) -> Result<(), Fault> {
        let mut command = self.command(url);
        command.args(["--continue-at", "-", "--output"]).arg(part);
        command.args(["--write-out", STATUS, "--", url]);
        self.run(url, command).map(drop)
    }

    /// Downloads a short text.
    pub(super) fn text(&self, url: &str) -> Result<String, Fault> {
        let mut command = self.command(url);
        command.args(["--max-filesize", TEXT_LIMIT]);
        // The status follows the text.
        command.args(["--write-out", STATUS, "--", url]);
        let text = self.run(url, command)?;
        Ok(text
            .rsplit_once('\n')
            .map_or("", |(text, _)| text)
            .to_owned())
    }

    /// Returns the standard output.
    fn run(&self, url: &str, mut command: Command) -> Result<String, Fault> {
        let done = process::capture(&mut command)
            .with_context(|| format!("downloading `{url}`"))
            .map_err(|error| Fault {
                text: format!("{error:#}"),
                next: Next::GiveUp,
            })?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        if done.status.success() {
            return Ok(text);
        }
        let status = text.rsplit('\n').next().and_then(|code| code.parse().ok());
        let said = String::from_utf8_lossy(&done.stderr);
        let said = said.trim().lines().last().unwrap_or("curl was ended");
        let code = done.status.code().unwrap_or(-1);
        Err(self.fault(url, code, status.unwrap_or(0), said))
    }

    /// Explains an exit status of curl (EXIT CODES in curl(1)) and a status of HTTP.
    fn fault(&self, url: &str, code: i32, http: u16, said: &str) -> Fault {
        let host = host(url);
        let (next, why) = match (code, http) {
            (22, 401 | 403 | 407) => (
                Next::GiveUp,
                format!(
                    "HTTP {http}: the server refuses these credentials; write \
                     `machine {host} login NAME password SECRET` to ~/.netrc"
                ),
            ),
            (22, 404 | 410) => (
                Next::GiveUp,
                format!(
                    "HTTP {http}: no such file; compare the release (`--kubernetes`, `--release`) \
                     with those that upstream publishes, and `--mirror` with the mirror's folders"
                ),
            ),
            (22, 416) => (
                Next::Restart,
                "HTTP 416: no such part of the file".to_owned(),
            ),
            (22, 408 | 429 | 500..) => (
                Next::Resume,
                format!("HTTP {http}: the server cannot answer now; run the command again later"),
            ),
            (22, _) => (
                Next::GiveUp,
                format!("HTTP {http}; open the URL in a browser, or take another `--mirror`"),
            ),
            (33 | 36, _) => (
                Next::Restart,
                "the server sends no parts of files".to_owned(),
            ),
            (5 | 6, _) => (
                Next::Resume,
                format!("{said}; compare the host with DNS and HTTPS_PROXY, or give a `--mirror`"),
            ),
            (35 | 51 | 53 | 54 | 58 | 59 | 60 | 66 | 77 | 80 | 83 | 90 | 91, _) => (
                Next::GiveUp,
                format!(
                    "{said}; if the server's authority is your own, give its certificate with \
                     `--ca FILE`"
                ),
            ),
            (7, _) => (
                Next::Resume,
                format!("{said}; is the server reachable, or does it need HTTPS_PROXY?"),
            ),
            (28, _) => (
                Next::Resume,
                format!(
                    "the server has sent nothing for {} s; run the command again, it goes on \
                     where it stopped (`--timeout` sets the seconds)",
                    self.idle
                ),
            ),
            (16 | 18 | 52 | 55 | 56 | 92 | 95 | 96, _) => (
                Next::Resume,
                format!(
                    "the connection broke ({said}); run the command again, it goes on where it \
                     stopped"
                ),
            ),
            (23, _) => (
                Next::GiveUp,
                format!("{said}; is the disk of the cache full? (FIRSTLIGHT_CACHE sets another)"),
            ),
            (63, _) => (
                Next::GiveUp,
                "too long for a checksum or a version; is it a page of a web server?".to_owned(),
            ),
            _ => (Next::GiveUp, said.to_owned()),
        };
        Fault {
            text: format!("downloading `{url}`: {why}"),
            next,
        }
    }
}

/// The host of a URL, as ~/.netrc names it.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    let server = authority.rsplit('@').next().unwrap_or(authority);
    match server.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => server,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_those_of_netrc() {
        for (url, wanted) in [
            ("https://dl.k8s.io/release/stable-1.34.txt", "dl.k8s.io"),
            ("https://user@m.example:8443/a", "m.example"),
            ("https://[::1]:8443/a", "[::1]"),
        ] {
            assert_eq!(host(url), wanted);
        }
    }
}
