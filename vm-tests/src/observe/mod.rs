//! Observers that run in a guest beside a test and record what clients see.

pub mod kubelet_connection;
pub mod request_monitor;
mod script;
