//! A CPU quota for one machine, so that it is as fast alone as it is beside others.
//!
//! The quota is `cpu.max` of control groups version 2 and `cpu.cfs_quota_us` of version 1 (kernel
//! documentation admin-guide/cgroup-v2 and scheduler/sched-bwc). It needs root privileges.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const GROUPS: &str = "/sys/fs/cgroup";

/// The period of the quota in microseconds. It is short, because a machine that has used up its
/// quota stands still until the period ends.
const PERIOD: u32 = 20_000;

/// A control group with a quota. Drop it after its process has ended.
#[derive(Debug)]
pub struct CpuQuota {
    group: PathBuf,
}

impl CpuQuota {
    /// Limits the process `id`, and all processes that it starts from now on, to `cores` of the
    /// host.
    pub fn set(cores: f64, id: u32) -> Result<Self> {
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
            bail!("`{GROUPS}` has no `cpu` controller, so a machine cannot have a CPU quota");
        };
        fs::create_dir(&group)
            .with_context(|| format!("creating `{}` (needs root)", group.display()))?;
        let quota_group = Self { group };
        for (file, value) in settings {
            write(&quota_group.group.join(file), &value)?;
        }
        write(&quota_group.group.join("cgroup.procs"), &id.to_string())?;
        Ok(quota_group)
    }
}

impl Drop for CpuQuota {
    fn drop(&mut self) {
        // A group that still has a process cannot be removed, and does no harm.
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
    use crate::host::process::run_time;

    #[test]
    fn process_gets_its_quota_and_no_more() -> Result<()> {
        let mut busy = Command::new("sh");
        busy.args(["-c", "while :; do :; done"])
            .stdin(Stdio::null());
        let mut busy = busy.spawn()?;
        let outcome = CpuQuota::set(0.2, busy.id());
        let (start, before) = (Instant::now(), run_time(busy.id())?);
        std::thread::sleep(Duration::from_secs(2));
        let used = (run_time(busy.id())? - before).as_secs_f64() / start.elapsed().as_secs_f64();
        busy.kill()?;
        busy.wait()?;
        match outcome {
            Ok(quota) => {
                let group = quota.group.clone();
                assert!(used < 0.3, "{used} of a core");
                drop(quota);
                assert!(!group.exists());
            }
            // Only a benchmark needs the quota, and it reports the error.
            Err(error) => eprintln!("skipped: {error:#}"),
        }
        Ok(())
    }
}
