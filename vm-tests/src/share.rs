//! A share of this host's processors for one machine, so that it is as fast beside others as it is alone.
//!
//! A control group with a quota: `cpu.max` of version 2, `cpu.cfs_quota_us` of version 1 (the kernel's admin-guide/cgroup-v2
//! and scheduler/sched-bwc). Only root makes one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const GROUPS: &str = "/sys/fs/cgroup";

/// Over so many microseconds a share is counted: short, for a machine that has used its own stands still until the end.
const PERIOD: u32 = 20_000;

/// Ends with its value, when its process has ended.
#[derive(Debug)]
pub struct Share {
    group: PathBuf,
}

impl Share {
    /// `cores` of this host, for the process `id` and all it starts from now on.
    pub fn give(cores: f64, id: u32) -> Result<Self> {
        let quota = (f64::from(PERIOD) * cores) as u32;
        let groups = Path::new(GROUPS);
        let name = format!("firstlight-{id}");
        let controllers = groups.join("cgroup.controllers");
        let (group, settings) = if groups.join("cpu").exists() {
            let settings = [
                ("cpu.cfs_period_us", PERIOD.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ];
            (groups.join("cpu").join(name), settings.to_vec())
        } else if fs::read_to_string(controllers)
            .is_ok_and(|text| text.split_whitespace().any(|name| name == "cpu"))
        {
            write(&groups.join("cgroup.subtree_control"), "+cpu")?;
            let settings = [("cpu.max", format!("{quota} {PERIOD}"))];
            (groups.join(name), settings.to_vec())
        } else {
            bail!(
                "`{GROUPS}` has no controller `cpu`: a machine cannot be given a share of processors"
            );
        };
        fs::create_dir(&group)
            .with_context(|| format!("creating `{}`, which root may", group.display()))?;
        let share = Self { group };
        for (file, value) in settings {
            write(&share.group.join(file), &value)?;
        }
        write(&share.group.join("cgroup.procs"), &id.to_string())?;
        Ok(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // One that still has a process stays, and does no harm.
        let _ = fs::remove_dir(&self.group);
    }
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("writing `{value}` to `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::server::run_time;

    #[test]
    fn a_process_gets_its_share_and_no_more() -> Result<()> {
        let mut busy = Command::new("sh");
        busy.args(["-c", "while :; do :; done"])
            .stdin(Stdio::null());
        let mut busy = busy.spawn()?;
        let outcome = Share::give(0.2, busy.id());
        let (begun, before) = (Instant::now(), run_time(busy.id())?);
        std::thread::sleep(Duration::from_secs(2));
        let used = (run_time(busy.id())? - before).as_secs_f64() / begun.elapsed().as_secs_f64();
        busy.kill()?;
        busy.wait()?;
        match outcome {
            Ok(share) => {
                let group = share.group.clone();
                assert!(used < 0.3, "{used} of a core");
                drop(share);
                assert!(!group.exists());
            }
            // No test needs it, only a benchmark, which then says so.
            Err(error) => eprintln!("skipped: {error:#}"),
        }
        Ok(())
    }
}
