//! Runs a program: logs its arguments and each line of output, and returns its last lines in the
//! error.
//!
//! No shell and no retries. Only hooks have a time limit.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Number of output lines in an error.
const KEPT_LINES: usize = 12;
/// A longer line is logged in parts.
const LINE_BYTES: u64 = 16 << 10;

/// Runs the program. Logs each line when the program prints it.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<()> {
    let shown: Vec<_> = arguments
        .iter()
        .map(|argument| argument.as_ref().to_string_lossy())
        .collect();
    run_shown_as(
        &[program.into(), shown.join(" ")].join(" "),
        program,
        arguments,
    )
}

/// As [`run`], for a shell script that may hold secrets. It starts in `/`. Its output may be a
/// secret too: a shell quotes the line that it does not understand. The journal has it, which only
/// root reads; the error, which everybody on the machine can read, has not.
pub fn run_script(shown: &str, path: &Path, variables: &[(&str, &str)]) -> Result<()> {
    let how = How::SECRET;
    follow_child(shown, "/bin/sh", how, |command| {
        let variables = variables.iter().copied();
        command.arg(path).envs(variables).current_dir("/");
    })
}

/// As [`run_script`], for a file that names its own interpreter.
pub fn run_file(shown: &str, path: &Path, variables: &[(&str, &str)]) -> Result<()> {
    let program = path.to_string_lossy();
    follow_child(shown, &program, How::SECRET, |command| {
        command.envs(variables.iter().copied()).current_dir("/");
    })
}

/// As [`run`], with `input` on standard input. Journal and errors show neither.
pub fn run_with_input(program: &str, arguments: &[&str], input: &[u8]) -> Result<()> {
    let how = How {
        input: Some(input),
        ..How::SECRET
    };
    follow_child(program, program, how, |command| {
        command.args(arguments);
    })
}

/// As [`run`], for a program of the package: with `variables`, in `/`, and for at most `limit`.
/// Then it ends with all processes of its group.
pub fn run_limited(
    shown: &str,
    path: &Path,
    variables: &[(&str, String)],
    limit: Duration,
) -> Result<()> {
    let program = path.to_string_lossy();
    let how = How {
        limit: Some(limit),
        ..How::default()
    };
    follow_child(shown, &program, how, |command| {
        let variables = variables.iter().map(|(name, value)| (*name, value));
        command.envs(variables).current_dir("/").process_group(0);
    })
}

/// As [`run`], and returns what the program prints instead of logging it.
pub fn output(program: &str, arguments: &[&str]) -> Result<String> {
    output_of(program, arguments, Stdio::null())
}

fn output_of(program: &str, arguments: &[&str], input: Stdio) -> Result<String> {
    log::debug!("running `{program} {}`", arguments.join(" "));
    #[allow(clippy::disallowed_methods, reason = "the output is data, not a log")]
    let output = Command::new(program)
        .args(arguments)
        .stdin(input)
        .output()
        .with_context(|| format!("running `{program}`"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("running `{program}`: {}: {}", output.status, error.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("reading the output of `{program}`"))
}

/// As [`output`], of a program that asks a person; on the terminal if there is one.
pub fn answer(program: &str, arguments: &[&str]) -> Result<String> {
    output_of(program, arguments, Stdio::inherit())
}

/// As [`run`]; journal and errors have `shown` instead of the arguments.
fn run_shown_as<S: AsRef<OsStr>>(shown: &str, program: &str, arguments: &[S]) -> Result<()> {
    follow_child(shown, program, How::default(), |command| {
        command.args(arguments);
    })
}

/// How a program runs.
#[derive(Debug, Clone, Copy, Default)]
struct How<'a> {
    /// Its output may be a secret: no error quotes it.
    is_secret: bool,
    /// Its standard input.
    input: Option<&'a [u8]>,
    /// When it is killed, with all processes of its group.
    limit: Option<Duration>,
}

impl How<'_> {
    const SECRET: Self = Self {
        is_secret: true,
        input: None,
        limit: None,
    };
}

fn follow_child(
    shown: &str,
    program: &str,
    how: How<'_>,
    arrange: impl FnOnce(&mut Command),
) -> Result<()> {
    let shown = shown.trim_end();
    log::debug!("running `{shown}`");
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that starts programs"
    )]
    let mut command = Command::new(program);
    arrange(&mut command);
    let mut child = command
        .stdin(if how.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running `{program}`"))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let group = Pid::from_raw(child.id().try_into().context("a process number")?);
    let (ended, wait) = mpsc::channel::<()>();
    let expired = AtomicBool::new(false);
    let (status, last) = thread::scope(|scope| {
        let expired = &expired;
        if let Some(limit) = how.limit {
            scope.spawn(move || {
                if wait.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    expired.store(true, Ordering::Relaxed);
                    // Its children may hold the output open after it.
                    if let Err(error) = killpg(group, Signal::SIGKILL) {
                        log::debug!("ending the process group {group}: {error}");
                    }
                }
            });
        }
        let out = scope.spawn(|| stdout.map(|pipe| follow(program, pipe)).unwrap_or_default());
        let err = scope.spawn(|| stderr.map(|pipe| follow(program, pipe)).unwrap_or_default());
        if let (Some(mut pipe), Some(input)) = (stdin, how.input) {
            // A program that does not read its input says why in its output.
            let _ = pipe.write_all(input);
        }
        let status = child.wait();
        let (out, err) = (
            out.join().unwrap_or_default(),
            err.join().unwrap_or_default(),
        );
        drop(ended);
        (status, if err.is_empty() { out } else { err })
    });
    let status = status.with_context(|| format!("waiting for `{program}`"))?;
    let ran_out = expired.into_inner();
    if ran_out || !status.success() {
        let last = Vec::from(last).join("\n");
        let status = match how.limit {
            Some(limit) if ran_out => format!("it did not end in {} s", limit.as_secs_f64()),
            _ => status.to_string(),
        };
        ensure!(
            !how.is_secret,
            "running `{shown}`: {status}; `journalctl --unit firstboot` has its output"
        );
        bail!(
            "running `{shown}`: {status}{}{last}",
            if last.is_empty() { "" } else { ":\n" }
        );
    }
    Ok(())
}

/// Logs each line of a program's output and returns the last ones.
fn follow(program: &str, pipe: impl Read) -> VecDeque<String> {
    let mut last = VecDeque::with_capacity(KEPT_LINES);
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while matches!(
        reader
            .by_ref()
            .take(LINE_BYTES)
            .read_until(b'\n', &mut line),
        Ok(1..)
    ) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if text.is_empty() {
            continue;
        }
        log::debug!(FIRSTLIGHT_PROGRAM = program; "{text}");
        if last.len() == KEPT_LINES {
            last.pop_front();
        }
        last.push_back(text);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_has_command_status_and_last_lines() {
        let error = run("sh", &["-c", "echo broken >&2; exit 3"])
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "running `sh -c echo broken >&2; exit 3`: exit status: 3:\nbroken"
        );
    }

    #[test]
    fn input_reaches_the_program_and_no_message() {
        let error = run_with_input("sh", &["-c", "read line; exit ${#line}"], b"secret\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("running `sh`: exit status: 6;") && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn missing_program_is_named() {
        assert_eq!(
            run("/nowhere/kubeadm", &[""; 0]).unwrap_err().to_string(),
            "running `/nowhere/kubeadm`"
        );
    }

    #[test]
    fn output_of_a_script_is_not_in_errors() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("runcmd");
        let text = "echo said hunter2\n$hunter2; 'hunter2'\nexit 3\n";
        crate::system::files::Root::new(dir.path())
            .write(
                "runcmd",
                text.as_bytes(),
                crate::system::files::Attributes::mode(0o700),
            )
            .unwrap();
        let error = run_script("runcmd", &script, &[]).unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn secret_arguments_are_not_in_errors() {
        let error = run_shown_as("runcmd[0]", "sh", &["-c", "exit 1 # secret"])
            .unwrap_err()
            .to_string();
        assert_eq!(error, "running `runcmd[0]`: exit status: 1");
    }
}
