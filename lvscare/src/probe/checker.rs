//! HealthCheckers one server for ever: asks at intervals on a held connection, at once when that one ends, and twice when
//! an answer is late.
//!
//! Says what each round found; what follows from it is `health` and `pool`.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::pool::health::Verdict;
use crate::probe::connection::{HealthRequest, NewConnResult, PersistentConn, READYZ, fresh};
use crate::probe::ticker::Ticker;

/// What older apiservers, and others, have in its place.
const HEALTHZ: &str = "/healthz";

/// An answer is late after this, or after four times the usual.
const LATE: Duration = Duration::from_millis(200);

/// A server that ends every connection after one answer is not asked more often than this.
const LEAST: Duration = Duration::from_millis(100);

/// How long a new connection gets for everything.
const FRESH: Duration = Duration::from_millis(500);

/// A held connection is given up for a new one after this long: a certificate that ran out or was replaced by a wrong
/// one shows only to new connections, and those are what clients make.
const RENEW: Duration = Duration::from_secs(60);

/// For so long an old connection that is answered vouches for a server that does not answer a new one in time. A new one
/// takes three times as many packets to and fro as a question, and any of them may be lost; but a server that takes no
/// new connection for so long is of no use to clients.
const VOUCH: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub interval: Duration,
    /// No round takes longer.
    pub timeout: Duration,
    /// How long a new connection gets for everything.
    pub fresh: Duration,
    /// A held connection is not used for longer, give or take a tenth, once there is a new one.
    pub renew: Duration,
    /// For so much longer it is used while there is none.
    pub grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(500),
            timeout: Duration::from_secs(10),
            fresh: FRESH,
            renew: RENEW,
            grace: VOUCH,
        }
    }
}

impl Timing {
    fn late(self, usual: Duration) -> Duration {
        (4 * usual)
            .max(LATE)
            .min(self.timeout.saturating_sub(self.fresh()))
    }

    fn fresh(self) -> Duration {
        self.fresh.min(self.timeout)
    }
}

/// What one round found.
#[derive(Debug, Clone)]
pub struct Report {
    pub address: SocketAddr,
    pub verdict: Verdict,
    pub began: Instant,
    pub ended: Instant,
}

#[derive(Debug)]
pub struct HealthChecker {
    address: SocketAddr,
    path: String,
    health_request: Arc<HealthRequest>,
    timing: Timing,
    persistent: Option<PersistentConn>,
    /// How old `held` may become.
    renew: Duration,
    /// Smoothed time to an answer on the held connection.
    usual: Duration,
}

impl HealthChecker {
    pub fn new(
        address: SocketAddr,
        path: &str,
        health_request: Arc<HealthRequest>,
        timing: Timing,
    ) -> Self {
        Self {
            address,
            path: path.to_owned(),
            health_request,
            timing,
            persistent: None,
            renew: about(timing.renew),
            usual: Duration::ZERO,
        }
    }

    /// Reports every round until nobody listens any more. The first comes at once, for until then nothing is known; the
    /// others on the beat.
    pub async fn run(mut self, ticker: Ticker, reports: Sender<Report>) {
        let mut was_good = true;
        loop {
            let report = self.round().await;
            let is_good = report.verdict == Verdict::Up;
            let asks_again = matches!(report.verdict, Verdict::Sick { .. }) && was_good;
            was_good = is_good;
            if reports.send(report).await.is_err() {
                return;
            }
            // A first bad answer is looked into at once; what is bad already can wait its turn.
            if !asks_again {
                self.pause(ticker).await;
            }
        }
    }

    /// One question, by whichever connection answers it.
    pub async fn round(&mut self) -> Report {
        let began = Instant::now();
        let verdict = match self.persistent.take() {
            Some(persistent) if persistent.opened.elapsed() < self.renew => {
                self.probe_persistent(persistent, began).await
            }
            Some(persistent) if persistent.opened.elapsed() < self.renew + self.timing.grace => {
                self.probe_both(persistent, began).await
            }
            _ => self.probe_new(began, began + self.timing.fresh()).await,
        };
        Report {
            address: self.address,
            verdict,
            began,
            ended: Instant::now(),
        }
    }

    /// On the connection held, and on a new one that is to take its place.
    async fn probe_both(&mut self, persistent: PersistentConn, began: Instant) -> Verdict {
        let (path, health_request) = (self.path.clone(), Arc::clone(&self.health_request));
        let (deadline, latest) = (began + self.timing.fresh(), began + self.timing.timeout);
        let fresh = fresh(self.address, &path, &health_request, deadline, latest);
        let (verdict, fresh) = tokio::join!(self.probe_persistent(persistent, began), fresh);
        if fresh.is_late {
            verdict
        } else {
            self.keep(fresh)
        }
    }

    async fn probe_persistent(
        &mut self,
        mut persistent: PersistentConn,
        began: Instant,
    ) -> Verdict {
        let (late, answer_timeout) = (self.timing.late(self.usual), self.timing.fresh());
        let (address, path, health_request) = (
            self.address,
            self.path.clone(),
            Arc::clone(&self.health_request),
        );
        let answered = {
            let mut answer = pin!(persistent.ask(address, &path, &health_request));
            match timeout(late, &mut answer).await {
                Ok(answer) => answer.ok(),
                // Late: a second question beside the first. Whichever is answered counts.
                Err(_) => {
                    let deadline = began + late + answer_timeout;
                    let latest = began + self.timing.timeout;
                    let mut second = pin!(fresh(address, &path, &health_request, deadline, latest));
                    tokio::select! {
                        biased;
                        answer = &mut answer => match answer {
                            Ok(status) => Some(status),
                            Err(_) => { let fresh = second.await; return self.keep(fresh) }
                        },
                        fresh = &mut second => return self.keep(fresh),
                    }
                }
            }
        };
        match answered {
            Some(status) => {
                self.usual = (7 * self.usual + began.elapsed()) / 8;
                self.persistent = Some(persistent);
                self.judge(status)
            }
            // A connection may end for many reasons, of which a new one knows more.
            None => self.probe_new(began, Instant::now() + answer_timeout).await,
        }
    }

    async fn probe_new(&mut self, began: Instant, deadline: Instant) -> Verdict {
        let path = self.path.clone();
        let latest = began + self.timing.timeout;
        let fresh = fresh(self.address, &path, &self.health_request, deadline, latest).await;
        self.keep(fresh)
    }

    fn keep(&mut self, fresh: NewConnResult) -> Verdict {
        self.persistent = fresh.persistent;
        self.renew = about(self.timing.renew);
        match fresh.answer {
            Ok(status) => self.judge(status),
            Err(verdict) => verdict,
        }
    }

    fn judge(&mut self, status: StatusCode) -> Verdict {
        let verdict = self.health_request.judge(status, &self.path);
        // Kubernetes before 1.16 has no `/readyz`; only the default is given up for it.
        if status == StatusCode::NOT_FOUND && self.path == READYZ {
            HEALTHZ.clone_into(&mut self.path);
        }
        verdict
    }

    /// Waits for the next turn, or for the end of the held connection.
    async fn pause(&mut self, ticker: Ticker) {
        let wait = sleep_until(ticker.next(self.timing.interval));
        let Some(persistent) = &mut self.persistent else {
            return wait.await;
        };
        tokio::select! {
            () = wait => {}
            _ = &mut persistent.ended => {
                let lived = persistent.opened.elapsed();
                self.persistent = None;
                sleep(LEAST.min(self.timing.interval).saturating_sub(lived)).await;
            }
        }
    }
}

/// Give or take a tenth.
fn about(time: Duration) -> Duration {
    time.mul_f64(0.9 + 0.2 * fraction())
}

/// Something from 0 to 1.
pub(crate) fn fraction() -> f64 {
    // The standard library's only source of chance; it does not have to be a good one.
    let random = RandomState::new().build_hasher().finish();
    f64::from(u16::try_from(random & 0xffff).unwrap_or_default()) / f64::from(u16::MAX)
}
