//! The settings of the daemon and of `run-once`, independent of the command line.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::discovery::Discovery;
use crate::ipvs::Service;
use crate::pool::Rules;
use crate::pool::members::Sources;
use crate::probe::checker::Timing;
use crate::probe::connection::HealthRequest;

/// The validated settings.
#[derive(Debug, Clone)]
pub struct Settings {
    pub service: SocketAddr,
    pub scheduler: String,
    pub sources: Sources,
    /// `None` disables discovery through the API.
    pub discovery: Option<Discovery>,
    pub source: Option<IpAddr>,
    pub path: String,
    pub health_request: Arc<HealthRequest>,
    pub timing: Timing,
    pub rules: Rules,
    pub kill: bool,
    pub status_address: SocketAddr,
}

impl Settings {
    pub fn service(&self) -> Service {
        Service::tcp(self.service, &self.scheduler)
    }
}
