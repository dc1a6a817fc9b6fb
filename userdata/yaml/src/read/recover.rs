//! Error recovery: continues after an error, so that all errors are reported in one run.

use serde::de::DeserializeOwned;

use super::de::NodeDe;
use super::tree::{Kind, Node};
use crate::report::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::report::failure::{Failure, UNKNOWN_KEY, What, named};
use crate::report::region::{Segment, path_of};
use crate::report::spans::Spans;

/// The reader stops after this many findings.
const MAX_FINDINGS: usize = 100;

/// Each attempt reads the whole tree. Attempts on a large one are so few that together they visit
/// about this many nodes and bytes.
const MAX_WORK: usize = 160 << 20;

/// Deserializes repeatedly, each time without the node that failed last, until there is no error.
/// A key that is missing only because of such a removal is not reported. The removed nodes stay
/// removed from the tree.
pub(crate) fn deserialize<T: DeserializeOwned>(
    spans: &mut Spans,
    found: &mut Diagnostics,
) -> Option<T> {
    let mut removed: Vec<Vec<Segment>> = Vec::new();
    let mut attempts = MAX_WORK / spans.root.work().max(1);
    loop {
        let failure = match T::deserialize(NodeDe(&spans.root)) {
            Ok(value) => return Some(value),
            Err(failure) => failure,
        };
        let path: Vec<Segment> = failure.path.iter().rev().cloned().collect();
        let about_key = matches!(failure.what, What::UnknownKey | What::MistypedKey);
        let caused_by_removal = !about_key
            && removed
                .iter()
                .any(|gone| gone.len() == path.len() + 1 && gone.starts_with(&path));
        if !caused_by_removal {
            found.push(finding(spans, &failure, &path));
        }
        attempts = attempts.saturating_sub(1);
        let stop = path.is_empty() || found.0.len() >= MAX_FINDINGS || attempts == 0;
        if stop || !remove(&mut spans.root, &path) {
            return None;
        }
        removed.push(path);
    }
}

fn finding(spans: &Spans, failure: &Failure, path: &[Segment]) -> Diagnostic {
    let name = path_of(path);
    let region = failure.region.clone().unwrap_or_default();
    let message = match failure.what {
        What::UnknownKey if spans.redact => named(UNKNOWN_KEY, "", true),
        _ => failure.message.clone(),
    };
    spans.finding(
        &name,
        Severity::Error,
        message,
        failure.help.clone(),
        &region,
    )
}

fn remove(node: &mut Node, path: &[Segment]) -> bool {
    match (&mut node.kind, path) {
        (Kind::Map(entries), [Segment::Key(key)]) => {
            let before = entries.len();
            entries.retain(|entry| entry.key != *key);
            entries.len() < before
        }
        (Kind::Seq(items), [Segment::Index(index)]) => {
            let before = items.len();
            items.retain(|item| item.index != *index);
            items.len() < before
        }
        (Kind::Map(entries), [Segment::Key(key), rest @ ..]) => entries
            .iter_mut()
            .find(|entry| entry.key == *key)
            .is_some_and(|entry| remove(&mut entry.value, rest)),
        (Kind::Seq(items), [Segment::Index(index), rest @ ..]) => items
            .iter_mut()
            .find(|item| item.index == *index)
            .is_some_and(|item| remove(&mut item.value, rest)),
        _ => false,
    }
}
