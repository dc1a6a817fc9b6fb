//! Makes a machine the Kubernetes host its document says it is.
//!
//! What happens on a boot ([`boot`]): the sources are asked in order for this host's document ([`source`]); it is
//! decoded and checked whole ([`document`]); the role's steps are listed ([`plan`]) and walked ([`runner`]), each asking
//! the machine whether it is done ([`step`]); the machine is ready. A crash, a power cut and a later boot walk the same
//! list again. Everything that is said on the way is in [`report`], what other programs may rely on in [`journal`], and how
//! every host tells the masters how far it is in [`status`].

pub mod boot;
pub mod cli;
pub mod document;
pub mod etcd;
pub mod journal;
pub mod kube;
pub mod kubeadm;
pub mod logger;
pub mod plan;
pub mod receipt;
pub mod report;
pub mod runner;
pub mod source;
pub mod state_partition;
pub mod status;
pub mod step;
pub mod system;
pub mod wait;
