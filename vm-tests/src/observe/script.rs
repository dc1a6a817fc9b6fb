//! Shell scripts that run in a guest beside a test and record what they see, on the guest's clock.

use anyhow::Result;

use crate::machine::vm::Vm;

/// Runs another script again and again, and records when its output changes.
const RECORD_CHANGES: &str = include_str!("record_changes.sh");

/// Writes `script` to the folder and starts it as the unit `firstlight-<name>`.
pub(super) fn start(
    node: &Vm,
    name: &str,
    folder: &str,
    script: &str,
    arguments: &[&str],
) -> Result<()> {
    let arguments: String = arguments.iter().map(|one| format!(" '{one}'")).collect();
    node.shell(&format!(
        "set -e\n{}systemd-run --quiet --collect --unit=firstlight-{name} \
         sh {folder}/{name}.sh{arguments}",
        write(folder, name, script)
    ))?;
    Ok(())
}

/// Records changes of the output of `script` to `file`, as the unit `firstlight-<name>`.
pub(super) fn record_changes(
    node: &Vm,
    name: &str,
    folder: &str,
    script: &str,
    arguments: &[&str],
    file: &str,
) -> Result<()> {
    let question = format!("{name}-state");
    node.shell(&write(folder, &question, script))?;
    let path = format!("{folder}/{question}.sh");
    let arguments = [&[file, path.as_str()], arguments].concat();
    start(node, name, folder, RECORD_CHANGES, &arguments)
}

/// Shell commands that write `script` to a file of the guest.
fn write(folder: &str, name: &str, script: &str) -> String {
    format!("mkdir -p {folder}\ncat >{folder}/{name}.sh <<'END'\n{script}END\n")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn only_changes_are_recorded() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let [state, seen, script] =
            ["state", "seen", "script"].map(|name| folder.path().join(name));
        std::fs::write(&state, "a\n")?;
        std::fs::write(&script, "cat \"$1\"\n")?;
        let mut shell = Command::new("sh");
        shell
            .args(["-c", RECORD_CHANGES, "sh"])
            .stdin(Stdio::null());
        let mut shell = shell.args([&seen, &script, &state]).spawn()?;
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
        let outputs: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .collect();
        assert!(matches!(outputs[..], [(_, "a"), (_, "b c")]), "{text}");
        assert!(
            outputs.iter().all(|(at, _)| at.parse::<f64>().is_ok()),
            "{text}"
        );
        Ok(())
    }
}
