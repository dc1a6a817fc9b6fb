//! Checks one server: at intervals on a persistent connection, immediately when that connection
//! closes, and on a second connection when a response is late.
//!
//! Reports the result of each round; `health` and `pool` evaluate it.

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

/// The fallback of older apiservers and other servers.
const HEALTHZ: &str = "/healthz";

/// A response is late after this, or after four times the smoothed response time.
const LATE: Duration = Duration::from_millis(200);

/// Minimum interval for a server that closes every connection after one response.
const LEAST: Duration = Duration::from_millis(100);

/// Timeout of a probe on a new connection, from connecting to the response.
const FRESH: Duration = Duration::from_millis(500);

/// Maximum age of a persistent connection: an expired or wrong certificate shows only on new
/// connections, which is what clients open.
const RENEW: Duration = Duration::from_secs(60);

/// How long responses on an old connection count while new connections time out. A new connection
/// takes three times as many round trips as a request, and any packet may be lost; but a server
/// that accepts no new connection for this long is of no use to clients.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub interval: Duration,
    /// Upper bound of one round.
    pub timeout: Duration,
    /// Timeout of a probe on a new connection.
    pub fresh: Duration,
    /// Maximum age of a persistent connection, plus or minus 10 %.
    pub renew: Duration,
    /// Extra age while no new connection succeeds.
    pub grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(500),
            timeout: Duration::from_secs(10),
            fresh: FRESH,
            renew: RENEW,
            grace: GRACE,
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

/// The result of one round.
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
    /// Maximum age of `persistent`.
    renew: Duration,
    /// Smoothed response time on the persistent connection.
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

    /// Reports every round until the receiver is dropped. The first round starts immediately, the
    /// others on a tick.
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
            // The first failure is rechecked immediately, later ones on the next tick.
            if !asks_again {
                self.pause(ticker).await;
            }
        }
    }

    /// One probe, on the persistent or a new connection.
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

    /// Probes on the persistent connection and on its replacement.
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
                // Late: a second request in parallel. The first response counts.
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
            // The connection closed for an unknown reason; a new one shows the state of the server.
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
        // Kubernetes before 1.16 has no `/readyz`; only the default path falls back.
        if status == StatusCode::NOT_FOUND && self.path == READYZ {
            HEALTHZ.clone_into(&mut self.path);
        }
        verdict
    }

    /// Waits for the next tick, or until the persistent connection closes.
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

/// Adds a jitter of plus or minus 10 %.
fn about(time: Duration) -> Duration {
    time.mul_f64(0.9 + 0.2 * fraction())
}

/// A random number from 0 to 1.
pub(crate) fn fraction() -> f64 {
    // The standard library's only source of randomness; quality does not matter here.
    let random = RandomState::new().build_hasher().finish();
    f64::from(u16::try_from(random & 0xffff).unwrap_or_default()) / f64::from(u16::MAX)
}
