//! lvscare and other load balancers in one machine and one run: how long a failed server gets new
//! connections, how long connections to it hang, how often a healthy server is removed, and the
//! cost in memory and processor time.
//!
//! `cargo bench -p vm-tests --bench lvscare` takes half an hour, because some balancers react after
//! half a minute only. The exit status is non-zero if lvscare exceeds one of its limits.
//!
//! | variable | effect |
//! | --- | --- |
//! | `FIRSTLIGHT_ROUNDS` | number of rounds (10; twice as many for a vanished host) |
//! | `FIRSTLIGHT_SLOW_ROUNDS` | rounds of the slow balancers (the same; 0 skips them) |
//! | `FIRSTLIGHT_STORM` | seconds in the bad network (300; 0 skips it) |
//! | `FIRSTLIGHT_FAULTS` | the faults to test, separated by commas |

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use vm_tests::host::Host;
use vm_tests::host::run_dir::RunDir;
use vm_tests::initrd::lvscare_guest::{self, Release};

const BALANCERS: [&str; 5] = [
    "lvscare",
    "keepalived tuned",
    "keepalived copied",
    "haproxy",
    "nginx",
];

/// A row of the table: its title, the fault, the field of its rounds, and the limits of lvscare.
type Row = (&'static str, &'static str, &'static str, Limits);
/// The limits in milliseconds for the worst round and for the median.
type Limits = (Option<f64>, Option<f64>);

const NO_LIMITS: Limits = (None, None);

const ROWS: [Row; 14] = [
    (
        "killed: removed after",
        "kill",
        "out_ms",
        (Some(200.0), None),
    ),
    (
        "vanished: removed after",
        "vanish",
        "out_ms",
        (Some(1300.0), Some(1100.0)),
    ),
    (
        "vanished: time to cut the link, included above",
        "vanish",
        "inject_ms",
        NO_LIMITS,
    ),
    (
        "frozen: removed after",
        "freeze",
        "out_ms",
        (Some(2000.0), None),
    ),
    ("500: removed after", "500", "out_ms", (Some(1100.0), None)),
    (
        "flushed: repaired after",
        "flush",
        "out_ms",
        (Some(1000.0), None),
    ),
    (
        "vanished: busy connection ends after",
        "vanish",
        "busy_ms",
        NO_LIMITS,
    ),
    (
        "vanished: idle connection ends after",
        "vanish",
        "idle_ms",
        NO_LIMITS,
    ),
    (
        "vanished: connections end after the removal",
        "vanish",
        "free_ms",
        (Some(300.0), None),
    ),
    (
        "vanished: pending connects succeed after it",
        "vanish",
        "connect_ms",
        (Some(1200.0), None),
    ),
    ("killed: restored after", "kill", "back_ms", NO_LIMITS),
    ("vanished: restored after", "vanish", "back_ms", NO_LIMITS),
    ("frozen: restored after", "freeze", "back_ms", NO_LIMITS),
    ("500: restored after", "500", "back_ms", NO_LIMITS),
];

fn main() -> Result<()> {
    // `cargo test --benches` runs this program too, without `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let rounds = setting("FIRSTLIGHT_ROUNDS", "10");
    let storm = setting("FIRSTLIGHT_STORM", "300");
    let run_dir = RunDir::new("lvscare-bench")?;
    let faults = setting("FIRSTLIGHT_FAULTS", "kill,vanish,freeze,500,flush");
    let slow = setting("FIRSTLIGHT_SLOW_ROUNDS", &rounds);
    let arguments = ["bench", &faults, &rounds, &slow, &storm];
    // A round of the slow balancers takes three minutes at most, also with KVM.
    let deadline = Duration::from_secs(rounds.parse::<u64>()? * 180 + storm.parse::<u64>()? + 300);
    let outcome = lvscare_guest::run(&host, &run_dir, Release::Trixie, &arguments, deadline)?;
    ensure!(outcome.status == 0, "{}", outcome.output);
    let facts = with_free_times(lvscare_guest::facts(&outcome)?);
    println!(
        "{rounds} rounds ({:?}, 2 processors, kernel 6.12); seconds: lowest / median / highest",
        host.accel()
    );
    let exceeded = print_table(&facts, &faults, storm != "0");
    for limit in &exceeded {
        println!("exceeded: {limit}");
    }
    ensure!(
        exceeded.is_empty(),
        "lvscare exceeds {} limits",
        exceeded.len()
    );
    run_dir.passed();
    Ok(())
}

/// Adds to each round the time from the removal of the server to the end of the last connection.
fn with_free_times(mut facts: Vec<Value>) -> Vec<Value> {
    for fact in &mut facts {
        let time = |name: &str| fact[name].as_f64();
        if let (Some(out), Some(busy), Some(idle)) =
            (time("out_ms"), time("busy_ms"), time("idle_ms"))
        {
            fact["free_ms"] = (busy.max(idle) - out).into();
        }
    }
    facts
}

/// Prints the table for `faults` and, with `costs`, for the bad network and the idle balancers.
/// Returns the limits that lvscare exceeds.
fn print_table(facts: &[Value], faults: &str, costs: bool) -> Vec<String> {
    let mut exceeded = Vec::new();
    println!("\n| | {} |", BALANCERS.join(" | "));
    println!("|---|{}", "---|".repeat(BALANCERS.len()));
    let chosen = |fault| faults.split(',').any(|name| name == fault);
    for (name, fault, field, (worst, median)) in ROWS {
        if !chosen(fault) {
            continue;
        }
        let mut cells = Vec::new();
        for balancer in BALANCERS {
            let rounds = facts
                .iter()
                .filter(|fact| fact["fault"] == fault && fact["balancer"] == balancer);
            let spread = Spread::of(rounds, field);
            let places = [(worst, spread.worst()), (median, spread.median())];
            for (limit, time) in places {
                if balancer == BALANCERS[0]
                    && let Some(limit) = limit
                    && time.is_none_or(|time| time > limit)
                {
                    exceeded.push(format!(
                        "{name}: {} s, the limit is {} s",
                        spread.text(),
                        limit / 1000.0
                    ));
                }
            }
            cells.push(spread.text());
        }
        println!("| {name} | {} |", cells.join(" | "));
    }
    if !costs {
        return exceeded;
    }
    let storm = |balancer: &str| {
        let found = facts.iter().find(|fact| fact["storm"] == balancer);
        found.map_or("-".to_owned(), |fact| fact["falls"].to_string())
    };
    println!(
        "| healthy servers removed, 1 % loss | {} |",
        BALANCERS.map(storm).join(" | ")
    );
    if storm(BALANCERS[0]) != "0" {
        exceeded.push(format!("{} healthy servers removed", storm(BALANCERS[0])));
    }
    let footprint = |field: &'static str, unit: f64| {
        move |balancer: &str| {
            let found = facts.iter().find(|fact| fact["footprint"] == balancer);
            found
                .and_then(|fact| fact[field].as_f64())
                .map_or(f64::NAN, |value| value / unit)
        }
    };
    let rows = [
        (
            "memory, resident, MB",
            footprint("rss_kib", 1024.0),
            Some(4.0),
        ),
        (
            "memory, proportional, MB",
            footprint("pss_kib", 1024.0),
            None,
        ),
        (
            "processor, % of an emulated core",
            footprint("cpu_percent", 1.0),
            None,
        ),
        ("threads", footprint("threads", 1.0), Some(1.0)),
        (
            "program, MB",
            footprint("program_bytes", 1048576.0),
            Some(4.0),
        ),
    ];
    for (name, value, limit) in rows {
        let cells = BALANCERS.map(|balancer| format!("{:.1}", value(balancer)));
        println!("| {name} | {} |", cells.join(" | "));
        if limit.is_some_and(|limit| value(BALANCERS[0]) > limit) {
            exceeded.push(format!("{name}: {:.1}", value(BALANCERS[0])));
        }
    }
    exceeded
}

/// The sorted times of all rounds. Rounds without an end count as the longest.
struct Spread {
    times: Vec<f64>,
    never: usize,
    window: f64,
}

impl Spread {
    fn of<'a>(rounds: impl Iterator<Item = &'a Value>, field: &str) -> Self {
        let mut spread = Self {
            times: Vec::new(),
            never: 0,
            window: 0.0,
        };
        for round in rounds {
            spread.window = round["window_ms"].as_f64().unwrap_or(0.0);
            match &round[field] {
                Value::Number(time) => spread.times.extend(time.as_f64()),
                // An absent field was not measured.
                Value::Null if round.get(field).is_some() => spread.never += 1,
                _ => {}
            }
        }
        spread.times.sort_by(f64::total_cmp);
        spread
    }

    /// The worst time; `None` if a round had no end.
    fn worst(&self) -> Option<f64> {
        let worst = self.times.last().copied();
        worst.filter(|_| self.never == 0)
    }

    fn median(&self) -> Option<f64> {
        self.times.get((self.times.len() + self.never) / 2).copied()
    }

    fn text(&self) -> String {
        let count = self.times.len() + self.never;
        if count == 0 {
            return "-".to_owned();
        }
        if self.never == count {
            return "never".to_owned();
        }
        let at = |n: usize| match self.times.get(n) {
            Some(time) => format!("{:.2}", time / 1000.0),
            None => format!("> {:.0}", self.window / 1000.0),
        };
        format!("{} / {} / {}", at(0), at(count / 2), at(count - 1))
    }
}
