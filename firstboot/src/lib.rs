//! Configures a machine as the Kubernetes host that its document describes.
//!
//! A boot ([`boot`]) asks the sources in order for this host's document ([`source`]), decodes and
//! checks it completely ([`host`]), lists the steps of the role ([`plan`]) and runs them
//! ([`runner`]). Each step checks on the machine whether it is done ([`step`]), so a crash, a power
//! cut and a later boot run the same list again. [`report`] has every message, [`journal`] what
//! other programs may rely on, and [`status`] what other hosts read.

pub mod applied;
pub mod boot;
pub mod cli;
pub mod etcd;
pub mod explain;
mod extras;
pub mod host;
pub mod host_keys;
pub mod install;
pub mod journal;
pub mod kube;
pub mod kubeadm;
pub mod live;
pub mod logger;
pub mod plan;
pub mod receipt;
pub mod report;
pub mod runner;
pub mod screen;
pub mod sealed;
pub mod source;
pub mod state_partition;
pub mod status;
pub mod step;
pub mod system;
pub mod trust;
pub mod wait;
