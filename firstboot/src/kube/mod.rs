//! What firstboot says to Kubernetes: kubeadm's configuration, and the few requests it makes itself.
//!
//! No kubectl: each call of it costs seconds of processor time on a slow machine.

pub mod apply;
pub mod client;
pub mod config;
pub mod documents;
pub mod etcd;
pub mod learner;
pub mod lease;
