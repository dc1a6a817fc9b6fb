//! Running outside programs: the command line in the log, the end of its words in the error. They
//! end with this program.
//!
//! Does not decide which program; trees of programs are in [`crate::debian_tree`].

mod guard;

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};

use self::guard::Guard;

/// How much of a failed program's output goes into the error. Tools that fail for a reason say it last.
const TAIL_LINES: usize = 20;

/// Runs `command` to its end, without input. Its output is kept back and shown only when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs `command` to its end, without input. Its exit status is the caller's to judge.
pub fn capture(command: &mut Command) -> Result<Output> {
    log::debug!("running {}", display(command));
    let _guard = Guard::of(command)?;
    command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| unstarted(command, &error))
}

/// Like [`run`], and returns what the program wrote to standard output.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let shown = display(command);
    let done = capture(command)?;
    if !done.status.success() {
        let mut said = done.stderr;
        if said.is_empty() {
            said = done.stdout;
        }
        bail!("running `{shown}`: {}\n{}", done.status, tail(&said));
    }
    Ok(done.stdout)
}

/// Like [`run`], for a command that takes its time: every line it prints, on whichever stream, is given to `line` as soon
/// as it is printed, and its last lines become the error. `name` stands for it there.
pub fn watch(name: &str, command: &mut Command, mut line: impl FnMut(&str)) -> Result<()> {
    log::debug!("running {}", display(command));
    let (reader, writer) = io::pipe().context("creating a pipe")?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("creating a pipe")?)
        .stderr(writer);
    let _guard = Guard::of(command)?;
    let mut child = command
        .spawn()
        .map_err(|error| unstarted(command, &error))?;
    // The command holds the pipe's writing ends; while it does, the pipe does not end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut last = VecDeque::with_capacity(TAIL_LINES);
    for bytes in BufReader::new(reader).split(b'\n') {
        let bytes = bytes.with_context(|| format!("listening to `{name}`"))?;
        let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if text.trim().is_empty() {
            continue;
        }
        line(&text);
        if last.len() == TAIL_LINES {
            last.pop_front();
        }
        last.push_back(format!("  {text}"));
    }
    let status = child
        .wait()
        .with_context(|| format!("waiting for `{name}`"))?;
    if !status.success() {
        bail!("running `{name}`: {status}\n{}", Vec::from(last).join("\n"));
    }
    Ok(())
}

/// The error of a command that could not be started names only the program: its arguments are not
/// the cause.
fn unstarted(command: &Command, error: &io::Error) -> anyhow::Error {
    let program = command.get_program().to_string_lossy();
    match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow!("running `{program}`: there is no such program; is it installed?")
        }
        _ => anyhow!("running `{program}`: {error}"),
    }
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
    // apt refuses to run twice, and threads that make trees side by side all want the same program.
    static ONE_APT: Mutex<()> = Mutex::new(());
    let _one = ONE_APT.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Two pieces of work that leave the processors idle for much of their time (downloads, one linker), at once.
pub fn side_by_side<A: Send, B>(
    first: impl FnOnce() -> A + Send,
    second: impl FnOnce() -> B,
) -> (A, B) {
    thread::scope(|scope| {
        let first = scope.spawn(first);
        let second = second();
        let first = first.join().unwrap_or_else(|panic| resume_unwind(panic));
        (first, second)
    })
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
        assert_eq!(
            text,
            "running `/nonexistent/tool`: there is no such program; is it installed?"
        );
    }

    #[test]
    fn watched_command_streams_lines_and_reports_last_ones() {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "for i in $(seq 30); do echo $i; done; echo why >&2; exit 3",
        ]);
        let error = watch("job", &mut command, |line| lines.push(line.to_owned()));
        let text = format!("{:#}", error.expect_err("exit status 3"));
        assert_eq!((lines.len(), lines[0].as_str()), (31, "1"));
        assert!(
            text.starts_with("running `job`: exit status: 3\n  12\n"),
            "{text}"
        );
        assert!(text.ends_with("\n  30\n  why"), "{text}");
    }
}
