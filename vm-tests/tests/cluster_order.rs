//! In whatever order the machines are switched on, and whatever their clocks say, they become one cluster, and say
//! meanwhile whom they wait for.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use firstboot::journal::{WAITING, field};
use vm_tests::journal::Want;
use vm_tests::qemu::Rtc;
use vm_tests::site::Site;
use vm_tests::vm::Vm;

// Both in one: forming takes a quarter of an hour without KVM, and each is seen for itself in what the machines say.
#[test]
#[ignore = "needs 30 minutes without KVM; run: cargo test -p vm-tests -- --include-ignored"]
fn hosts_wait_for_late_master0_with_clocks_years_apart() -> Result<()> {
    let Some(mut site) = Site::new("master0_last", "ha")? else {
        return Ok(());
    };
    let year = 1970 + i64::try_from(now()?.as_secs())? / 31_556_952;
    for (name, years) in [("m0", 10), ("m1", -10), ("m2", 0), ("n0", -10)] {
        site.cluster.member_mut(name)?.machine.rtc =
            Rtc::At(format!("{}-06-01T00:00:00", year + years));
    }
    for name in ["m1", "m2", "n0"] {
        site.start(name)?;
    }
    they_say_that_they_wait_for_m0(&site)?;
    what_waiting_takes(&site)?;

    site.start("m0")?;
    site.wait_ready()?;
    // systemd sets no clock before its own release; between those that are left still lie ten years.
    for (name, vm) in &site.on {
        println!("{name} ends in {}", vm.ok("date +%F")?.trim());
    }
    let seen = site.vm("m0")?.ok("date +%Y")?;
    assert_eq!(seen.trim(), (year + 10).to_string());
    site.is_whole()?;
    site.passed();
    Ok(())
}

fn they_say_that_they_wait_for_m0(site: &Site) -> Result<()> {
    let join = Want::id(WAITING).field(field::STEP, "kubelet-start");
    for (name, waiting) in site.wait_each(&join, Duration::from_secs(120))? {
        let endpoint = waiting.get(field::ENDPOINT).unwrap_or_default();
        let answer = waiting.get(field::ANSWER).unwrap_or_default();
        ensure!(
            endpoint.contains("192.168.7.10:6443") && answer.contains("m0"),
            "{name} does not say that it waits for m0: {waiting:?}"
        );
        let status: serde_json::Value =
            serde_json::from_str(&site.vm(&name)?.ok("cat /run/firstlight/status.json")?)?;
        ensure!(
            status.to_string().contains("192.168.7.10:6443"),
            "{name}: {status}"
        );
    }
    Ok(())
}

/// Of a core, in half a minute of it. A figure and no claim: an emulated processor's seconds are not a user's.
fn what_waiting_takes(site: &Site) -> Result<()> {
    let took = |vm: &Vm| -> Result<[f64; 2]> {
        let text = vm.ok(
            "set -- $(cat /proc/$(systemctl show -P MainPID firstboot)/stat); \
             read up _ </proc/uptime; echo $((${14} + ${15})) $up",
        )?;
        let numbers: Result<Vec<f64>, _> = text.split_whitespace().map(str::parse).collect();
        let numbers = numbers.with_context(|| format!("reading `{text}`"))?;
        let two = <[f64; 2]>::try_from(numbers);
        two.map_err(|numbers| anyhow!("{numbers:?} are not two numbers"))
    };
    let begin: Result<Vec<_>> = site.on.values().map(took).collect();
    std::thread::sleep(Duration::from_secs(30).div_f64(site.pace()));
    for ((name, vm), [ticks, up]) in site.on.iter().zip(begin?) {
        let [ticks_after, up_after] = took(vm)?;
        // Ticks are hundredths of a second.
        let share = (ticks_after - ticks) / (up_after - up);
        println!(
            "{name}, waiting for {up_after:.0} s: {share:.2} % of a core in the last {:.0} s",
            up_after - up
        );
    }
    Ok(())
}

fn now() -> Result<Duration> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?)
}
