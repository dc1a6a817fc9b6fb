//! The contract between `imagegen`, which writes a host's document on the build machine, and
//! `firstboot`, which reads it once on the host. See `README.md` for the document on one page.
//!
//! A *document* is an ordinary NoCloud seed: `user-data` (a `#cloud-config`), `meta-data` and
//! `network-config`. Its `write_files` contains the *node file* ([`node_config::NodeConfig`],
//! `/etc/firstlight/node.yaml`), which defines the machine's place in its cluster. The *image file*
//! ([`image_info::ImageInfo`]) is part of the root file system: it describes the content of the
//! image to `firstboot`.
//!
//! This crate only handles data: it opens no file or socket, reads no clock and does not log.

pub mod cloud_config;
pub mod contract;
pub mod document;
pub mod image_info;
pub mod network;
pub mod node_config;
pub mod role;
pub mod runtime;
pub mod secret;
pub mod signature;
pub mod state_info;
pub mod validate;
pub mod value;
