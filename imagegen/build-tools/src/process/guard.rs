//! Ends a command with imagegen: a killed imagegen leaves no process behind that goes on writing.
//!
//! The command and all that it starts are in one process group, which a small shell leads. The
//! shell reads from a pipe that only imagegen holds open. When imagegen ends, even by SIGKILL, the
//! pipe ends, and the shell ends the group. `PR_SET_PDEATHSIG` would end the command, but not what
//! the command started: mmdebstrap runs apt, dpkg and tar.

use std::io::{self, PipeWriter, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// A line ends the shell alone. At the end of the pipe, the group has two seconds to clean up.
const SCRIPT: &str = "read -r _ && exit 0
trap '' TERM
kill -TERM 0
/bin/sleep 2
kill -KILL 0";

#[derive(Debug)]
pub(super) struct Guard {
    shell: Child,
    /// Closed in every other process: pipes are close-on-exec.
    pipe: PipeWriter,
}

impl Guard {
    /// Starts a guard, and lets `command` start in its process group.
    pub(super) fn of(command: &mut Command) -> Result<Self> {
        let (reader, pipe) = io::pipe().context("creating a pipe")?;
        let shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT])
            .env_clear()
            .stdin(reader)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("running `/bin/sh`, which ends programs with imagegen")?;
        let group = i32::try_from(shell.id()).context("reading a process id")?;
        command.process_group(group);
        Ok(Self { shell, pipe })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self
            .pipe
            .write_all(b"\n")
            .and_then(|()| self.shell.wait().map(drop))
        {
            log::warn!("ending the guard of a program: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::*;

    /// Names the folder for [`helper_runs_a_command`], which runs in a process of its own.
    const FOLDER: &str = "FIRSTLIGHT_TEST_GUARD";

    const COMMAND: &str = "trap '' HUP INT
        sleep 1000 & echo $! >$0/child.part; mv $0/child.part $0/child
        echo $$ >$0/parent.part; mv $0/parent.part $0/parent
        wait";

    #[test]
    #[ignore = "runs inside killed_program_leaves_no_process"]
    fn helper_runs_a_command() -> Result<()> {
        let Some(folder) = std::env::var_os(FOLDER) else {
            return Ok(());
        };
        super::super::run(Command::new("/bin/sh").args(["-c", COMMAND]).arg(folder))
    }

    fn eventually(what: &str, check: impl Fn() -> bool) {
        let start = Instant::now();
        while !check() {
            assert!(start.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::yield_now();
        }
    }

    /// Whether the process runs; one that waits for its parent does not.
    fn runs(pid: &str) -> bool {
        fs::read_to_string(Path::new("/proc").join(pid).join("stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn killed_program_leaves_no_process() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut program = Command::new(std::env::current_exe()?)
            .args([
                "--ignored",
                "--exact",
                "process::guard::tests::helper_runs_a_command",
            ])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let path = |name: &str| folder.path().join(name);
        eventually("the command starts", || path("parent").exists());
        let pids = ["parent", "child"].map(|name| fs::read_to_string(path(name)));
        let pids = pids.map(|pid| pid.unwrap_or_default().trim().to_owned());
        assert!(pids.iter().all(|pid| runs(pid)), "{pids:?}");
        program.kill()?;
        program.wait()?;
        eventually("both processes end", || !pids.iter().any(|pid| runs(pid)));
        Ok(())
    }

    #[test]
    fn ended_command_leaves_its_service_running() -> Result<()> {
        let output = super::super::output(
            Command::new("/bin/sh").args(["-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]),
        )?;
        let pid = String::from_utf8_lossy(&output).trim().to_owned();
        assert!(runs(&pid), "{pid}");
        super::super::run(Command::new("/bin/sh").args(["-c", &format!("kill {pid}")]))
    }
}
