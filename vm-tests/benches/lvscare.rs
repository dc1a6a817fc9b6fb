//! lvscare beside the programs people use in its place, in one machine and one run: how long a broken master goes on
//! getting connections, how long connections to it hang, what is taken for broken that is not, and what it all costs.
//!
//! `cargo bench -p vm-tests --bench lvscare`; `FIRSTLIGHT_ROUNDS` sets the number of rounds (10; twice as many where a host
//! vanishes), `FIRSTLIGHT_SLOW_ROUNDS` those of the programs that take long to act (as many; 0 leaves them out),
//! `FIRSTLIGHT_STORM` the seconds in the bad network (300; 0 leaves it out), `FIRSTLIGHT_FAULTS` some of the faults. It
//! takes about half an hour, for some of its subjects take half a minute to act.
//!
//! A bar of ours that does not hold is the exit status.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use vm_tests::host::Host;
use vm_tests::lvscare_guest::{self, Release};
use vm_tests::run::Run;

const KEEPERS: [&str; 5] = [
    "lvscare",
    "keepalived tuned",
    "keepalived copied",
    "haproxy",
    "nginx",
];

/// What a row shows: the fault and the field of its rounds, and our bars in milliseconds for the worst round and for the
/// median.
type Row = (&'static str, &'static str, &'static str, Bars);
type Bars = (Option<f64>, Option<f64>);

const NO_BARS: Bars = (None, None);

const ROWS: [Row; 14] = [
    ("killed: out", "kill", "out_ms", (Some(200.0), None)),
    (
        "vanished: out",
        "vanish",
        "out_ms",
        (Some(1300.0), Some(1100.0)),
    ),
    (
        "vanished: until the cable was out, which is counted above",
        "vanish",
        "inject_ms",
        NO_BARS,
    ),
    ("frozen: out", "freeze", "out_ms", (Some(2000.0), None)),
    ("500: out", "500", "out_ms", (Some(1100.0), None)),
    ("flushed: repaired", "flush", "out_ms", (Some(1000.0), None)),
    ("vanished: busy flow free", "vanish", "busy_ms", NO_BARS),
    ("vanished: idle flow free", "vanish", "idle_ms", NO_BARS),
    (
        "vanished: flows free after the verdict",
        "vanish",
        "free_ms",
        (Some(300.0), None),
    ),
    (
        "vanished: connects under way, after it",
        "vanish",
        "connect_ms",
        (Some(1200.0), None),
    ),
    ("killed: used again", "kill", "back_ms", NO_BARS),
    ("vanished: used again", "vanish", "back_ms", NO_BARS),
    ("frozen: used again", "freeze", "back_ms", NO_BARS),
    ("500: used again", "500", "back_ms", NO_BARS),
];

fn main() -> Result<()> {
    // `cargo test --benches` runs this too, without `--bench`; a benchmark is no test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let rounds = setting("FIRSTLIGHT_ROUNDS", "10");
    let storm = setting("FIRSTLIGHT_STORM", "300");
    let run = Run::new("lvscare-bench")?;
    let faults = setting("FIRSTLIGHT_FAULTS", "kill,vanish,freeze,500,flush");
    let slow = setting("FIRSTLIGHT_SLOW_ROUNDS", &rounds);
    let arguments = ["bench", &faults, &rounds, &slow, &storm];
    // A round of the slow ones takes three minutes at most, also on a fast machine.
    let deadline = Duration::from_secs(rounds.parse::<u64>()? * 180 + storm.parse::<u64>()? + 300);
    let outcome = lvscare_guest::run(&host, &run, Release::Trixie, &arguments, deadline)?;
    ensure!(outcome.status == 0, "{}", outcome.output);
    let facts = with_free_times(lvscare_guest::facts(&outcome)?);
    println!(
        "{rounds} rounds ({:?}, 2 processors, kernel 6.12); seconds: lowest / median / highest",
        host.accel()
    );
    let broken = print_table(&facts, &faults, storm != "0");
    for bar in &broken {
        println!("does not hold: {bar}");
    }
    ensure!(broken.is_empty(), "{} bars do not hold", broken.len());
    run.passed();
    Ok(())
}

/// Adds to each round how long after the verdict the last flow was freed.
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

/// The bars that do not hold, of what was measured: `faults`, and `costs` in the bad network and at rest.
fn print_table(facts: &[Value], faults: &str, costs: bool) -> Vec<String> {
    let mut broken = Vec::new();
    println!("\n| | {} |", KEEPERS.join(" | "));
    println!("|---|{}", "---|".repeat(KEEPERS.len()));
    let chosen = |fault| faults.split(',').any(|name| name == fault);
    for (name, fault, field, (worst, median)) in ROWS {
        if !chosen(fault) {
            continue;
        }
        let mut cells = Vec::new();
        for keeper in KEEPERS {
            let rounds = facts
                .iter()
                .filter(|fact| fact["fault"] == fault && fact["keeper"] == keeper);
            let spread = Spread::of(rounds, field);
            let places = [(worst, spread.worst()), (median, spread.median())];
            for (bar, time) in places {
                if keeper == KEEPERS[0]
                    && let Some(bar) = bar
                    && time.is_none_or(|time| time > bar)
                {
                    broken.push(format!(
                        "{name}: {} s, the bar is {} s",
                        spread.text(),
                        bar / 1000.0
                    ));
                }
            }
            cells.push(spread.text());
        }
        println!("| {name} | {} |", cells.join(" | "));
    }
    if !costs {
        return broken;
    }
    let storm = |keeper: &str| {
        let found = facts.iter().find(|fact| fact["storm"] == keeper);
        found.map_or("-".to_owned(), |fact| fact["falls"].to_string())
    };
    println!(
        "| living servers taken out, 1 % loss | {} |",
        KEEPERS.map(storm).join(" | ")
    );
    if storm(KEEPERS[0]) != "0" {
        broken.push(format!("{} living servers taken out", storm(KEEPERS[0])));
    }
    let footprint = |field: &'static str, unit: f64| {
        move |keeper: &str| {
            let found = facts.iter().find(|fact| fact["footprint"] == keeper);
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
        ("memory, its share, MB", footprint("pss_kib", 1024.0), None),
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
    for (name, value, bar) in rows {
        let cells = KEEPERS.map(|keeper| format!("{:.1}", value(keeper)));
        println!("| {name} | {} |", cells.join(" | "));
        if bar.is_some_and(|bar| value(KEEPERS[0]) > bar) {
            broken.push(format!("{name}: {:.1}", value(KEEPERS[0])));
        }
    }
    broken
}

/// Times of all rounds, sorted; those that never ended last.
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
                // Absent: not measured for this one.
                Value::Null if round.get(field).is_some() => spread.never += 1,
                _ => {}
            }
        }
        spread.times.sort_by(f64::total_cmp);
        spread
    }

    /// `None` if one never ended.
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
