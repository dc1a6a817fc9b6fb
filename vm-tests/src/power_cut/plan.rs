//! Where the power is cut: at every step of firstboot, around flushes, and anywhere.

use std::collections::BTreeSet;

use super::cut::{Cut, Random};
use super::log::Log;
use super::recording::{Event, Mark, Recorded};

/// A cut, its number in the campaign, and the step that it interrupts.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub number: usize,
    pub step: String,
    pub cut: Cut,
}

/// A part of the log, from one report of firstboot to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    step: String,
    from: usize,
    to: usize,
}

/// Chooses `count` cuts, in the order in which [`super::disk::Replay`] takes them.
pub fn plan(log: &Log, machine: &Recorded, count: usize, seed: u64) -> Vec<Planned> {
    let windows = windows(log, machine);
    let mut random = Random::new(seed ^ name_seed(&machine.name) ^ name_seed(&machine.role));
    // The requests of firstboot's own time; before it come the firmware, the initrd and mkfs.
    let begin = windows.get(1).map_or(0, |window| window.from);
    let end = log.entries().len();
    let flushes: Vec<usize> = (begin..end)
        .filter(|at| log.entries()[*at].is_flush)
        .collect();
    let mut planned = Vec::new();
    for number in 0..count {
        let (at, step) = match number % 4 {
            // Each step in turn, however few requests it has made.
            0 | 1 => {
                let window = &windows[(number / 4 * 2 + number % 4) % windows.len()];
                let at = window.from + random.below(window.to - window.from + 1);
                (at, window.step.as_str())
            }
            // As the flush ends, when most is at stake.
            2 if !flushes.is_empty() => {
                let at = flushes[random.below(flushes.len())];
                (at, step_at(&windows, at))
            }
            _ => {
                let at = random.below(end + 1);
                (at, step_at(&windows, at))
            }
        };
        planned.push(Planned {
            number,
            step: step.to_owned(),
            cut: Cut::choose(at, &mut random),
        });
    }
    planned.sort_by_key(|one| (one.cut.flushed(log), one.cut.at, one.number));
    planned
}

/// What the machine had reported when `at` requests were complete.
pub fn reported(log: &Log, machine: &Recorded, at: usize) -> BTreeSet<Event> {
    let before = |mark: &&Mark| log.position(mark.boot, mark.bytes) <= at;
    let marks = machine.marks.iter().filter(before);
    marks.map(|mark| mark.event.clone()).collect()
}

/// The names of all windows in order, each once.
pub fn steps(log: &Log, machine: &Recorded) -> Vec<String> {
    let mut names = Vec::<String>::new();
    for window in windows(log, machine) {
        if !names.contains(&window.step) {
            names.push(window.step);
        }
    }
    names
}

fn windows(log: &Log, machine: &Recorded) -> Vec<Window> {
    let mut begins = vec![(0, "before firstboot".to_owned())];
    let last_done = machine
        .marks
        .iter()
        .rposition(|mark| mark.boot == 0 && matches!(mark.event, Event::Done(_)));
    for (number, mark) in machine.marks.iter().enumerate() {
        let step = match &mark.event {
            _ if mark.boot > 0 => continue,
            Event::DocumentFound => "document",
            Event::Started(step) => step,
            Event::Done(_) if Some(number) == last_done => "record and seed",
            Event::Done(_) => continue,
            Event::Ready => "after Ready",
        };
        begins.push((log.position(mark.boot, mark.bytes), step.to_owned()));
    }
    if machine.boots > 1 {
        begins.push((log.first_of(1), "later boot".to_owned()));
    }
    let ends: Vec<usize> = begins.iter().skip(1).map(|(from, _)| *from).collect();
    let ends = ends.into_iter().chain([log.entries().len()]);
    let windows = begins.into_iter().zip(ends);
    windows
        .map(|((from, step), to)| Window {
            step,
            from,
            to: to.max(from),
        })
        .collect()
}

fn step_at(windows: &[Window], at: usize) -> &str {
    // Of several windows without requests the last one.
    let found = windows.iter().rfind(|window| window.from <= at);
    found.map_or("", |window| &window.step)
}

/// FNV-1a, so that machines of one campaign have different cuts.
fn name_seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::super::log::SECTOR;
    use super::super::log::writer::Writer;
    use super::*;

    fn recorded() -> (tempfile::TempDir, Log, Recorded) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = Writer::default();
        for sector in 0..100 {
            writer.write(sector, &[1; SECTOR as usize]);
            if sector % 10 == 9 {
                writer.flush();
            }
        }
        writer.save(&path);
        let log = Log::open(&[path]).unwrap();
        let mark = |entry: u64, event| Mark {
            boot: 0,
            // Each of the first entries has two sectors.
            bytes: SECTOR + entry * 2 * SECTOR,
            event,
        };
        let machine = Recorded {
            name: "m0".to_owned(),
            role: "master0".to_owned(),
            boots: 1,
            marks: vec![
                mark(2, Event::DocumentFound),
                mark(3, Event::Started("a".to_owned())),
                mark(5, Event::Done("a".to_owned())),
                mark(5, Event::Started("b".to_owned())),
                mark(5, Event::Done("b".to_owned())),
                mark(8, Event::Ready),
            ],
        };
        (dir, log, machine)
    }

    #[test]
    fn every_step_is_cut_and_cuts_are_repeatable() {
        let (_dir, log, machine) = recorded();
        let planned = plan(&log, &machine, 60, 1);
        assert_eq!(planned.len(), 60);
        assert_eq!(planned, plan(&log, &machine, 60, 1));
        assert_ne!(planned, plan(&log, &machine, 60, 2));
        let hit: BTreeSet<&str> = planned.iter().map(|one| one.step.as_str()).collect();
        let expected = [
            "before firstboot",
            "document",
            "a",
            "b",
            "record and seed",
            "after Ready",
        ];
        for step in expected {
            assert!(hit.contains(step), "{step} is never cut");
        }
        let flushed: Vec<_> = planned.iter().map(|one| one.cut.flushed(&log)).collect();
        assert!(flushed.is_sorted());
    }

    #[test]
    fn report_counts_from_where_the_log_was_when_it_was_received() {
        let (_dir, log, machine) = recorded();
        assert!(reported(&log, &machine, 4).contains(&Event::Started("a".to_owned())));
        assert!(!reported(&log, &machine, 4).contains(&Event::Done("a".to_owned())));
        assert!(reported(&log, &machine, 5).contains(&Event::Done("a".to_owned())));
        assert!(!reported(&log, &machine, 7).contains(&Event::Ready));
    }
}
