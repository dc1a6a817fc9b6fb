//! When a joining etcd may have its vote.

/// What is known of this host's member while it has no vote.
#[derive(Debug, Default)]
pub struct Learner {
    /// It was just added: it takes its time to start, and is not to be taken for one that was left behind.
    pub added: bool,
    /// Where the others were when asked last.
    committed: Option<u64>,
}

impl Learner {
    /// It has carried out all that the others had agreed on at the last look, or even now: it is behind by less than the
    /// time between two looks.
    ///
    /// etcd's own check is not enough. It goes by what a member has acknowledged, and a leader sends a new member its
    /// whole log with every heartbeat until the first acknowledgement is back; over a slow link those copies are in the
    /// way of everything after them. A member that got its vote then kept a cluster of two from writing for minutes.
    pub fn has_caught_up(&mut self, committed: u64, applied: u64) -> bool {
        let before = self.committed.replace(committed);
        applied >= before.unwrap_or(committed).min(committed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_gets_its_vote_when_it_lags_by_less_than_one_look() {
        let mut quick = Learner::default();
        assert!(quick.has_caught_up(547, 547));
        // Under writes it is always a little behind, but never where the others were at the last look.
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
    fn another_master_that_is_behind_counts_with_what_it_knows() {
        let mut learner = Learner::default();
        assert!(!learner.has_caught_up(600, 590));
        assert!(learner.has_caught_up(591, 591));
    }
}
