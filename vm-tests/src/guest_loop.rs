//! Shell loops that run in a guest beside a test and write down what they see, on the guest's own clock.

use anyhow::Result;

use crate::vm::Vm;

/// A script that asks `question`, ten times a second, and writes the time and the answer to `file` when it changes; the
/// first answer is a change, unless it is nothing.
pub(crate) fn on_change(question: &str, file: &str) -> String {
    format!(
        "last=\n\
         while :; do\n\
         now=$({question})\n\
         if [ \"$now\" != \"$last\" ]; then\n\
         read at _ </proc/uptime\n\
         echo \"$at $now\" >>{file}\n\
         last=$now\n\
         fi\n\
         sleep 0.1\n\
         done\n"
    )
}

/// Starts `script` as the unit `firstlight-<name>`; `folder` is made and holds the script.
pub(crate) fn start(node: &Vm, name: &str, folder: &str, script: &str) -> Result<()> {
    node.ok(&format!(
        "set -e; mkdir -p {folder}\ncat >{folder}/{name}.sh <<'END'\n{script}END\n\
         systemd-run --quiet --collect --unit=firstlight-{name} sh {folder}/{name}.sh"
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn only_changes_are_recorded() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (state, seen) = (folder.path().join("state"), folder.path().join("seen"));
        std::fs::write(&state, "a\n")?;
        let script = on_change(
            &format!("cat {}", state.display()),
            &seen.display().to_string(),
        );
        let mut shell = Command::new("sh");
        let mut shell = shell.arg("-c").arg(script).stdin(Stdio::null()).spawn()?;
        let lines = || std::fs::read_to_string(&seen).unwrap_or_default();
        let wait = |count: usize| {
            let end = Instant::now() + Duration::from_secs(10);
            while lines().lines().count() < count && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        wait(1);
        // Several rounds without a change.
        std::thread::sleep(Duration::from_millis(500));
        let changed = folder.path().join("changed");
        std::fs::write(&changed, "b c\n")?;
        std::fs::rename(&changed, &state)?;
        wait(2);
        shell.kill()?;
        shell.wait()?;
        let text = lines();
        let answers: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .collect();
        assert!(matches!(answers[..], [(_, "a"), (_, "b c")]), "{text}");
        assert!(
            answers.iter().all(|(at, _)| at.parse::<f64>().is_ok()),
            "{text}"
        );
        Ok(())
    }
}
