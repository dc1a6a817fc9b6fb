//! A host of the cluster and its answer to a status request.

use std::net::IpAddr;

use userdata::role::Role;

use super::{Phase, StatusReport};

/// A host of the topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) address: IpAddr,
}

/// Its report, or why there is none.
pub(crate) type Answer = Result<StatusReport, String>;

pub(crate) fn is_ready(answer: &Answer) -> bool {
    matches!(answer, Ok(report) if report.status.phase == Phase::Ready)
}
