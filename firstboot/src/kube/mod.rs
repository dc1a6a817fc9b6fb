//! The few requests that firstboot sends to an apiserver.
//!
//! No kubectl: each call costs seconds of processor time on a slow machine.

pub mod apply;
pub mod client;
pub mod documents;
pub mod lease;
pub mod pod_network;
