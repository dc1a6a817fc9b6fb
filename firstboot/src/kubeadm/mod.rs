//! kubeadm on this host: its configuration, the phases that firstboot runs, its files, and markers
//! of progress.

pub mod config;
mod documents;
pub mod marker;
pub mod paths;
pub mod phases;
mod security;
