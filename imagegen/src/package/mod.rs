//! The offline package: everything Kubernetes needs, in sealos's layout.
//!
//! [`reader`] opens any package and [`oci`] the image archives in it; the crate `default-package`
//! builds the default one. [`crate::image`] decides where the files of a package go in a node
//! image.

mod cluster;
mod elf;
mod extract;
mod folders;
mod framing;
mod listing;
mod manifest;
pub mod oci;
mod probe;
pub mod reader;
mod scan;
mod stream;
mod verdict;

pub(crate) use manifest::Manifests;
/// The former name, which other crates use.
pub use oci as images;
use reader::HOOKS;
pub use reader::{BUILD_HOOK, Package};
pub(crate) use stream::unpacked;
pub(crate) use verdict::docker::recipe as docker_recipe;
pub(crate) use verdict::{MANIFESTS, Places};
pub use verdict::{PackedImage, Part, State, Verdict};
