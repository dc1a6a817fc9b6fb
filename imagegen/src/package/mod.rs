//! The offline package: everything Kubernetes needs, in sealos's layout.
//!
//! [`reader`] opens any package and [`images`] the image archives in it; the crate `default-package` makes the default one.
//! What becomes of a package's files in the node image is [`crate::image`]'s.

mod extract;
pub mod images;
mod listing;
pub mod reader;
mod scan;
mod stream;

pub use reader::{BUILD_HOOK, Package};
