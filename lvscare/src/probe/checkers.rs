//! Runs one health checker per backend, following the pool.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc::Sender;
use tokio::task::AbortHandle;

use crate::probe::checker::{HealthChecker, Report};
use crate::probe::ticker::Ticker;
use crate::settings::Settings;

#[derive(Debug)]
pub struct HealthCheckers {
    running: BTreeMap<SocketAddr, AbortHandle>,
    sender: Sender<Report>,
    ticker: Ticker,
}

impl HealthCheckers {
    pub fn new(sender: Sender<Report>, ticker: Ticker) -> Self {
        Self {
            running: BTreeMap::new(),
            sender,
            ticker,
        }
    }

    /// Starts and stops checkers to match `servers`; running ones are not restarted.
    pub fn keep(&mut self, servers: &[SocketAddr], settings: &Settings) {
        self.running.retain(|address, checker| {
            let stays = servers.contains(address);
            if !stays {
                checker.abort();
            }
            stays
        });
        for &address in servers {
            self.running.entry(address).or_insert_with(|| {
                let health_request = Arc::clone(&settings.health_request);
                let checker =
                    HealthChecker::new(address, &settings.path, health_request, settings.timing);
                tokio::spawn(checker.run(self.ticker, self.sender.clone())).abort_handle()
            });
        }
    }
}
