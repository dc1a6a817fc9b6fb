//! One watch for each member, started and stopped with the membership.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc::Sender;
use tokio::task::AbortHandle;

use crate::beat::Beat;
use crate::cli::Settings;
use crate::watch::{Report, Watch};

#[derive(Debug)]
pub struct Watches {
    running: BTreeMap<SocketAddr, AbortHandle>,
    sender: Sender<Report>,
    beat: Beat,
}

impl Watches {
    pub fn new(sender: Sender<Report>, beat: Beat) -> Self {
        Self {
            running: BTreeMap::new(),
            sender,
            beat,
        }
    }

    /// Watches these and no others; one that is watched already goes on undisturbed.
    pub fn keep(&mut self, servers: &[SocketAddr], settings: &Settings) {
        self.running.retain(|address, watch| {
            let stays = servers.contains(address);
            if !stays {
                watch.abort();
            }
            stays
        });
        for &address in servers {
            self.running.entry(address).or_insert_with(|| {
                let question = Arc::clone(&settings.question);
                let watch = Watch::new(address, &settings.path, question, settings.timing);
                tokio::spawn(watch.run(self.beat, self.sender.clone())).abort_handle()
            });
        }
    }
}
