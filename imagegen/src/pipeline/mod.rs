//! From a topology to an output folder: the stages in order, and the files that each publishes.
//!
//! Every check of the input comes before the first change of the folder. Documents come before the
//! image: they take milliseconds, the image takes minutes.

mod base;
mod image;
mod input;
pub mod pxe;
mod reset_token;
mod rotate;
mod state;
mod userdata;

use std::path::PathBuf;

pub use self::image::{ImageInputs, image};
pub use self::input::{Input, Refused, Request, output, package, read, validate};
pub use self::pxe::pxe;
pub use self::reset_token::reset_token;
pub use self::rotate::{Step, rotate, rotation};
pub use self::userdata::userdata;

const HOSTS: &str = "hosts";
pub(crate) const PKI: &str = "pki";
const ADMIN_CONF: &str = "admin.conf";
const SEED: &str = "seed.img";
const IMAGE: &str = "node.raw";
const QCOW2: &str = "node.qcow2";
/// The bill of materials of the image.
const SBOM: &str = "node.cdx.json";

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub folder: PathBuf,
    pub hosts: usize,
    /// Whether any byte in the folder changed.
    pub changed: bool,
}
