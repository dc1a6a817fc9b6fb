//! The immutable node image: [`build()`] makes it, [`ImageRequest::key`] decides whether it is up
//! to date.
//!
//! Root tree → erofs → dm-verity → UKI → ESP, GPT → `node.raw`. The same inputs give the same
//! bytes: every file has the same date, ids are digests, and outside tools come from pinned Debian
//! trees.

pub mod archive;
#[cfg(test)]
mod bake_tests;
mod build;
pub mod containerd;
pub mod debian;
pub mod disk;
pub mod docker;
pub mod extract;
pub mod facts;
pub mod hooks;
pub mod initrd;
pub mod key;
pub mod kubeadm;
pub mod layers;
pub mod live;
pub mod programs;
pub mod qcow2;
mod releases;
pub mod root;
mod root_files;
mod sbom;
pub mod sealed;
pub mod signing;
mod site;
pub mod uki;
pub mod verity;
pub mod vfat;

pub(crate) use self::build::kernel_modules;
pub use self::build::{ImageReport, build, check_privilege};
pub use self::debian::{prepare, prepare_for, tools, tools_for};
pub use self::key::ImageRequest;
pub use self::signing::Signing;
