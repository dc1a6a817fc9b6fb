//! Hosts form a cluster in any order of starts and with wrong clocks, and report what they wait
//! for.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use firstboot::journal::{WAITING, field};
use vm_tests::cluster::testbed::Testbed;
use vm_tests::machine::journal::RecordMatch;
use vm_tests::machine::qemu::Rtc;
use vm_tests::machine::vm::Vm;

// One test for order and clocks: forming a cluster takes 15 minutes without KVM, and the reports of
// the hosts show each by itself.
#[test]
#[ignore = "30 minutes without KVM; run: cargo test -p vm-tests --test cluster_order -- --include-ignored"]
fn hosts_wait_for_late_master0_with_clocks_years_apart() -> Result<()> {
    let Some(mut testbed) = Testbed::new("master0_last", "ha")? else {
        return Ok(());
    };
    let year = 1970 + i64::try_from(now()?.as_secs())? / 31_556_952;
    for (name, years) in [("m0", 10), ("m1", -10), ("m2", 0), ("n0", -10)] {
        testbed.cluster.member_mut(name)?.machine.rtc =
            Rtc::At(format!("{}-06-01T00:00:00", year + years));
    }
    for name in ["m1", "m2", "n0"] {
        testbed.start(name)?;
    }
    check_hosts_report_waiting_for_m0(&testbed)?;
    print_processor_time_of_waiting(&testbed)?;

    testbed.start("m0")?;
    testbed.wait_ready()?;
    // systemd moves a clock that is before its own release date forward; ten years remain between
    // the others.
    for (name, vm) in &testbed.running {
        println!("{name}: the date is {}", vm.shell("date +%F")?.trim());
    }
    let seen = testbed.vm("m0")?.shell("date +%Y")?;
    assert_eq!(seen.trim(), (year + 10).to_string());
    testbed.assert_healthy()?;
    testbed.passed();
    Ok(())
}

fn check_hosts_report_waiting_for_m0(testbed: &Testbed) -> Result<()> {
    let join = RecordMatch::id(WAITING).field(field::STEP, "kubelet-start");
    for (name, waiting) in testbed.wait_each(&join, Duration::from_secs(120))? {
        let endpoint = waiting.get(field::ENDPOINT).unwrap_or_default();
        let answer = waiting.get(field::ANSWER).unwrap_or_default();
        ensure!(
            endpoint.contains("192.168.7.10:6443") && answer.contains("m0"),
            "{name} does not report that it waits for m0: {waiting:?}"
        );
        let status: serde_json::Value = serde_json::from_str(
            &testbed
                .vm(&name)?
                .shell("cat /run/firstlight/status.json")?,
        )?;
        ensure!(
            status.to_string().contains("192.168.7.10:6443"),
            "{name}: {status}"
        );
    }
    Ok(())
}

/// Prints the processor time of firstboot in 30 s of waiting. Under emulation it proves nothing, so
/// no bound is checked.
fn print_processor_time_of_waiting(testbed: &Testbed) -> Result<()> {
    let times = |vm: &Vm| -> Result<[f64; 2]> {
        let text = vm.shell(include_str!("processor_time.sh"))?;
        let numbers: Result<Vec<f64>, _> = text.split_whitespace().map(str::parse).collect();
        let numbers = numbers.with_context(|| format!("reading `{text}`"))?;
        let two = <[f64; 2]>::try_from(numbers);
        two.map_err(|numbers| anyhow!("expected two numbers: {numbers:?}"))
    };
    let begin: Result<Vec<_>> = testbed.running.values().map(times).collect();
    std::thread::sleep(Duration::from_secs(30).div_f64(testbed.time_scale()));
    for ((name, vm), [ticks, up]) in testbed.running.iter().zip(begin?) {
        let [ticks_after, up_after] = times(vm)?;
        // Ticks are hundredths of a second.
        let share = (ticks_after - ticks) / (up_after - up);
        println!(
            "{name}, waiting since {up_after:.0} s: {share:.2} % of a core in the last {:.0} s",
            up_after - up
        );
    }
    Ok(())
}

fn now() -> Result<Duration> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?)
}
