//! The contract between `imagegen`, which writes a host's document on the building machine, and
//! `firstboot`, which reads it once on the host.
//!
//! A *document* is an ordinary NoCloud seed: `user-data` (a `#cloud-config`), `meta-data` and
//! `network-config`. One of the files its `write_files` brings is the *node file*
//! ([`node_config::NodeConfig`], `/etc/firstlight/node.yaml`), which says what this machine is in its cluster.
//! The *image file* ([`image_info::ImageInfo`]) travels the other way: it is baked into the root and tells
//! `firstboot` what the image holds.
//!
//! This crate is data: it opens no file, no socket and no clock, and it does not log.

pub mod cloud_config;
pub mod contract;
pub mod document;
pub mod image_info;
pub mod network;
pub mod node_config;
pub mod role;
pub mod secret;
pub mod validate;
pub mod value;
