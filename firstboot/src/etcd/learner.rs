//! When a learner is promoted to a voting member.

/// The member of this host while it is a learner.
#[derive(Debug, Default)]
pub struct Learner {
    /// It was just added and may not have started yet: not a remainder of an interrupted try.
    pub added: bool,
    /// The commit index of the others at the last check.
    committed: Option<u64>,
}

impl Learner {
    /// Whether it has applied all that the others had committed at the last check or at this one:
    /// it lags by less than the time between two checks.
    ///
    /// etcd's own check is not enough. It counts what a member has acknowledged, and a leader sends
    /// a new member its whole log with every heartbeat until the first acknowledgement is back;
    /// over a slow link those copies delay everything after them. A member promoted at that time
    /// kept a cluster of two from writing for minutes.
    pub fn has_caught_up(&mut self, committed: u64, applied: u64) -> bool {
        let before = self.committed.replace(committed);
        applied >= before.unwrap_or(committed).min(committed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learner_is_promoted_when_it_lags_less_than_one_check() {
        let mut quick = Learner::default();
        assert!(quick.has_caught_up(547, 547));
        // Under writes it always lags, but not behind the last check.
        let mut busy = Learner::default();
        assert!(!busy.has_caught_up(547, 540));
        assert!(busy.has_caught_up(560, 555));
        let mut slow = Learner::default();
        for (committed, applied) in [(547, 0), (560, 20), (580, 20), (600, 579)] {
            assert!(!slow.has_caught_up(committed, applied), "{applied}");
        }
        assert!(slow.has_caught_up(600, 600));
    }

    #[test]
    fn lagging_member_counts_with_its_own_commit_index() {
        let mut learner = Learner::default();
        assert!(!learner.has_caught_up(600, 590));
        assert!(learner.has_caught_up(591, 591));
    }
}
