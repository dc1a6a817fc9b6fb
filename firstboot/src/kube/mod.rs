//! The few requests that firstboot sends to an apiserver.
//!
//! Not with kubectl: each call takes seconds of CPU time on a slow machine.

pub mod accepted;
pub mod apply;
pub mod client;
pub mod documents;
pub mod lease;
pub mod pod_network;
