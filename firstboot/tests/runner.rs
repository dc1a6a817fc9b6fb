//! The runner with steps that are done, fail or are interrupted: what it records and what it
//! repeats.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use anyhow::{Result, ensure};
use firstboot::receipt::{Outcome, Receipt};
use firstboot::report::Reporter;
use firstboot::runner;
use firstboot::step::Step;
use firstboot::system::files::Root;

/// A step whose state is a file; it fails a given number of times.
struct Fake {
    name: &'static str,
    root: Root,
    failures: Cell<u32>,
    applied: Rc<Cell<u32>>,
    machine: bool,
}

impl fmt::Display for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "do {}", self.name)
    }
}

impl Step for Fake {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_done(&self) -> Result<bool> {
        Ok(self.root.exists(format!("/{}", self.name)))
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        self.applied.set(self.applied.get() + 1);
        let failures = self.failures.get();
        self.failures.set(failures.saturating_sub(1));
        ensure!(failures == 0, "out of luck");
        std::fs::write(self.root.join(format!("/{}", self.name)), "")?;
        Ok(())
    }

    fn needs_machine(&self) -> bool {
        self.machine
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    root: Root,
    steps: Vec<Box<dyn Step>>,
    applied: Vec<Rc<Cell<u32>>>,
}

fn bench(steps: &[(&'static str, u32, bool)]) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let (mut list, mut counts) = (Vec::<Box<dyn Step>>::new(), Vec::new());
    for (name, failures, machine) in steps {
        let applied = Rc::new(Cell::new(0));
        counts.push(applied.clone());
        let fake = Fake {
            name,
            root: root.clone(),
            failures: Cell::new(*failures),
            applied,
            machine: *machine,
        };
        list.push(Box::new(fake));
    }
    Bench {
        _dir: dir,
        root,
        steps: list,
        applied: counts,
    }
}

impl Bench {
    fn run(&self) -> Result<usize> {
        let mut receipt = Receipt::open(&self.root, "test");
        runner::run(
            &self.steps,
            &self.root,
            &mut receipt,
            &mut Reporter::silent(&self.root),
        )
    }

    fn applied(&self) -> Vec<u32> {
        self.applied.iter().map(|count| count.get()).collect()
    }

    fn receipt(&self) -> Vec<(String, Outcome)> {
        let receipt = Receipt::open(&self.root, "test");
        receipt
            .entries()
            .iter()
            .map(|entry| (entry.step.clone(), entry.outcome.clone()))
            .collect()
    }
}

#[test]
fn second_run_applies_nothing() {
    let bench = bench(&[("a", 0, false), ("b", 0, false)]);
    assert_eq!(bench.run().unwrap(), 2);
    assert_eq!(bench.run().unwrap(), 0);
    assert_eq!(bench.applied(), [1, 1]);
}

#[test]
fn next_run_resumes_at_the_failed_step() {
    let bench = bench(&[("a", 0, false), ("b", 1, false), ("c", 0, false)]);
    let error = format!("{:#}", bench.run().unwrap_err());
    assert_eq!(error, "applying step `b`: out of luck");
    assert_eq!(bench.applied(), [1, 1, 0]);
    bench.run().unwrap();
    assert_eq!(bench.applied(), [1, 2, 1]);
    let failed = Outcome::Failed("applying step `b`: out of luck".to_owned());
    let expected = [
        ("a", Outcome::Done),
        ("b", failed),
        ("b", Outcome::Done),
        ("c", Outcome::Done),
    ];
    assert_eq!(
        bench.receipt(),
        expected.map(|(name, outcome)| (name.to_owned(), outcome))
    );
}

#[test]
fn receipt_does_not_decide_whether_a_step_is_done() {
    let bench = bench(&[("a", 0, false)]);
    bench.run().unwrap();
    std::fs::remove_file(bench.root.join("/a")).unwrap();
    bench.run().unwrap();
    assert_eq!(bench.applied(), [2]);
    // A torn receipt does not stop the boot.
    std::fs::write(
        bench.root.join("/var/lib/firstlight/receipt.json"),
        "{\"steps\": [",
    )
    .unwrap();
    std::fs::remove_file(bench.root.join("/a")).unwrap();
    bench.run().unwrap();
    assert_eq!(bench.receipt().len(), 1);
}

#[test]
fn directory_skips_steps_that_need_a_machine() {
    let bench = bench(&[("a", 0, true), ("b", 0, false)]);
    assert_eq!(bench.run().unwrap(), 1);
    assert_eq!(bench.applied(), [0, 1]);
}

#[test]
fn step_that_is_done_stays_done_without_room_for_its_line() {
    let bench = bench(&[("a", 0, false), ("b", 0, false)]);
    // As a full disk does, this lets no receipt be written.
    std::fs::create_dir_all(bench.root.join("/var/lib")).unwrap();
    std::fs::write(bench.root.join("/var/lib/firstlight"), "").unwrap();
    assert_eq!(bench.run().unwrap(), 2);
    assert_eq!(bench.run().unwrap(), 0);
    assert_eq!(bench.applied(), [1, 1]);
}
