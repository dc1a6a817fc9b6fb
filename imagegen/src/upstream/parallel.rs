//! Downloads side by side: they wait for servers, not for processors.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// More connections than that gain nothing, and servers may refuse them.
const WORKERS: usize = 4;
/// Time between two looks at the progress.
const TICK: Duration = Duration::from_millis(300);

/// Ends the waits of all downloads when one has failed.
#[derive(Debug, Default)]
pub(super) struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn set(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    pub(super) fn is_set(&self) -> bool {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits before another try.
    pub(super) fn wait(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        while !*stopped {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.changed.wait_timeout(stopped, left);
            stopped = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Works on all items, and calls `tick` meanwhile. After a failure no work starts, what has started
/// ends, and the first error is returned.
pub(super) fn each<T: Sync, R: Send>(
    items: &[T],
    stop: &Stop,
    tick: impl Fn(usize),
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let mut failure = None;
    thread::scope(|scope| {
        for _ in 0..WORKERS.min(items.len()) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                while !stop.is_set() {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let done = work(item);
                    if done.is_err() {
                        stop.set();
                    }
                    if sender.send((index, done)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut done = 0;
        loop {
            tick(done);
            match receiver.recv_timeout(TICK) {
                Ok((index, Ok(result))) => {
                    done += 1;
                    if let Some(place) = results.get_mut(index) {
                        *place = Some(result);
                    }
                }
                Ok((_, Err(error))) => {
                    failure.get_or_insert(error);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(results.into_iter().flatten().collect()),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn results_have_the_order_of_items() {
        let items: Vec<u32> = (0..50).collect();
        let found = each(&items, &Stop::default(), |_| {}, |item| Ok(item * 2));
        let wanted: Vec<u32> = items.iter().map(|item| item * 2).collect();
        assert_eq!(found.expect("no failure"), wanted);
    }

    #[test]
    fn no_work_starts_after_a_failure() {
        let started = AtomicUsize::new(0);
        let stop = Stop::default();
        let items = [(); 100];
        let found = each(
            &items,
            &stop,
            |_| {},
            |()| -> Result<()> {
                if started.fetch_add(1, Ordering::Relaxed) == 0 {
                    bail!("the first one");
                }
                // The others wait before another try; the failure ends their waits.
                stop.wait(Duration::from_secs(60));
                Ok(())
            },
        );
        assert_eq!(found.expect_err("a failure").to_string(), "the first one");
        assert!(started.into_inner() <= WORKERS);
    }
}
