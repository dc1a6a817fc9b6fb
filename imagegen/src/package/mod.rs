//! The offline package: everything Kubernetes needs, in sealos's layout.
//!
//! [`reader`] opens any package and [`oci`] the image archives in it; the crate `default-package`
//! builds the default one. [`crate::image`] decides where the files of a package go in a node
//! image.

mod extract;
mod listing;
pub mod oci;
pub mod reader;
mod scan;
mod stream;

/// The former name, which other crates use.
pub use oci as images;
pub use reader::{BUILD_HOOK, Package};
