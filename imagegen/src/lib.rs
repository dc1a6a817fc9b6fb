//! From one topology and one offline package to a node image and a document for every host.
//!
//! In the order of the data:
//!
//! 1. [`topology`] is what a person writes; [`plan`] has every default and every name.
//! 2. [`pki`] and [`kubeconfig`] issue the cluster's credentials; [`documents`] and [`seed`] give
//!    each host its share; [`secret_scan`] checks the finished bytes.
//! 3. [`package`] opens the offline package; [`image`] builds `node.raw` with it.
//! 4. [`output`] publishes complete results in a folder; [`pipeline`] runs the stages in order.
//! 5. [`flash`] writes the image and one host's seed to a disk; [`serve`] boots machines over the
//!    network.
//!
//! [`upstream`] makes a package of upstream's releases.
//!
//! [`cli`] and [`display`] are the user interface. Debian trees, subprocesses, the cache and
//! progress output are in the crate `build-tools`; the crate `default-package` builds the default
//! package.

pub mod cli;
pub mod digest;
pub mod display;
pub mod documents;
pub mod flash;
pub mod image;
pub mod iso;
pub mod kubeconfig;
pub mod output;
pub mod package;
pub mod passphrases;
mod pax;
pub mod pipeline;
pub mod pki;
pub mod plan;
pub mod secret_scan;
pub mod seed;
pub mod serve;
pub mod state_keys;
pub mod topology;
pub mod upstream;
pub mod virtual_machine;

/// The former path of [`digest`], which other crates use.
pub mod manifest {
    pub use crate::digest::digest_file;
}
