//! Runs the steps in order: skip or apply each, report it, keep the receipt; stop at the first
//! error.
//!
//! Not in parallel. Knows no step by name.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::receipt::{Outcome, Receipt};
use crate::report::{Reporter, StepRef};
use crate::step::Step;
use crate::system::files::Root;

/// Runs the steps in order and returns how many made a lasting change.
///
/// Skips steps that are done, and, if `root` is a directory, those that need a running machine.
pub fn run(
    steps: &[Box<dyn Step>],
    root: &Root,
    receipt: &mut Receipt,
    report: &mut Reporter,
) -> Result<usize> {
    let mut changed = 0;
    for (number, step) in (1..).zip(steps) {
        let name = step.name();
        let step_ref = StepRef {
            name,
            number,
            count: steps.len(),
        };
        if step.needs_machine() && !root.is_machine() {
            report.step_skipped(step_ref, "skipped: needs a running system");
            continue;
        }
        let start = Instant::now();
        let checked = step
            .is_done()
            .with_context(|| format!("checking whether step `{name}` is done"));
        let done =
            checked.inspect_err(|error| report.step_failed(step_ref, start.elapsed(), error))?;
        if done {
            report.step_skipped(step_ref, "already done");
            continue;
        }
        report.step_started(step_ref, &step.to_string());
        let applied = step
            .apply(report)
            .with_context(|| format!("applying step `{name}`"));
        let took = start.elapsed();
        match applied {
            Ok(()) => {
                report.step_done(step_ref, took);
                if step.is_lasting() {
                    changed += 1;
                    // What is done is done, whether or not a full disk has room for its line.
                    if let Err(error) = receipt.record(name, Outcome::Done, took) {
                        report
                            .attention(&format!("recording that step `{name}` is done: {error:#}"));
                    }
                }
            }
            Err(error) => {
                report.step_failed(step_ref, took, &error);
                // Return the step's error, even if the receipt cannot be written.
                let _ = receipt.record(name, Outcome::Failed(format!("{error:#}")), took);
                return Err(error);
            }
        }
    }
    Ok(changed)
}
