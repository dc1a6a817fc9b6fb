//! Running outside programs: the command line in the log, the end of its words in the error.
//!
//! Does not decide which program; trees of programs are in [`crate::tree`].

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// How much of a failed program's output goes into the error. Tools that fail for a reason say it last.
const TAIL_LINES: usize = 12;

/// Runs `command` to its end, without input. Its output is kept back and shown only when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Like [`run`], and returns what the program wrote to standard output.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let shown = display(command);
    log::debug!("running {shown}");
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running `{shown}`"))?;
    if !done.status.success() {
        let mut said = done.stderr;
        if said.is_empty() {
            said = done.stdout;
        }
        bail!("running `{shown}`: {}\n{}", done.status, tail(&said));
    }
    Ok(done.stdout)
}

/// `command` as one would type it, for logs and errors.
pub fn display(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..]
        .iter()
        .map(|l| format!("  {l}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Finds `program` on PATH or in the sbin folders; where it is missing, installs Debian's `package`
/// if we may, and else says the one command that does.
pub fn require(program: &str, package: &str) -> Result<PathBuf> {
    if let Some(found) = find(program) {
        return Ok(found);
    }
    if nix::unistd::geteuid().is_root() && find("apt-get").is_some() {
        log::info!("installing Debian package `{package}` for `{program}`");
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt.args(["install", "--yes", "--no-install-recommends", package]);
        // A machine that was never updated has no package lists; one try with fresh ones is enough.
        if run(&mut apt).is_err() {
            run(Command::new("apt-get").arg("update"))?;
            run(&mut apt)?;
        }
        if let Some(found) = find(program) {
            return Ok(found);
        }
    }
    bail!("`{program}` is not on this machine; install it: sudo apt-get install {package}")
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_last_words() {
        let error =
            run(Command::new("sh").args(["-c", "echo first; echo 'the reason' >&2; exit 3"]));
        let text = format!("{:#}", error.expect_err("exit status 3"));
        assert!(text.contains("sh -c"), "{text}");
        assert!(
            text.contains("exit status: 3") && text.contains("the reason"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_program_without_a_package_to_install_is_named() {
        let text = format!(
            "{:#}",
            run(&mut Command::new("/nonexistent/tool")).expect_err("not there")
        );
        assert!(text.contains("/nonexistent/tool"), "{text}");
    }
}
