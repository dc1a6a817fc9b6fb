//! From one topology and one offline package to a node image and a document for every host.
//!
//! In the order in which data flows:
//!
//! 1. [`topology`] is what a person writes; [`plan`] has every default filled and every name decided.
//! 2. [`pki`] and [`kubeconfig`] make what the cluster trusts; [`documents`] and [`seed`] give each host its share, and
//!    [`secret_scan`] judges the finished bytes.
//! 3. [`package`] opens the offline package; [`image`] bakes it into `node.raw`.
//! 4. [`output`] and [`manifest`] are the folder where all that appears whole or not at all; [`make`] is the story.
//!
//! [`cli`] and [`show`] face a person. Debian trees, subprocesses, the cache and progress output are
//! the crate `build-tools`, and the default package is built by the crate `default-package`.

pub mod cli;
pub mod digest;
pub mod documents;
pub mod image;
pub mod kubeconfig;

pub mod make;
pub mod manifest;
pub mod output;
pub mod package;
pub mod pki;
pub mod plan;
pub mod secret_scan;
pub mod seed;
pub mod show;
pub mod topology;
