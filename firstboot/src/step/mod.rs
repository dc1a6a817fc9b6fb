//! The changes that firstboot makes to a host, one file each; those of Kubernetes are in [`cluster`].
//!
//! To add one: a type with [`Step`] in a file here, a line in the lists of `plan.rs`, and its name in `userdata::role`. A step
//! asks the machine whether it is done, and a power cut at any point of `apply` must leave it repeatable.

pub mod addresses;
pub mod cluster;
pub mod files;
pub mod hooks;
pub mod hostname;
pub mod hosts;
pub mod kernel;
pub mod network;
pub mod ntp;
pub mod scripts;
pub mod service_routes;
pub mod ssh;
pub mod unit;
pub mod users;

use std::fmt;

use anyhow::Result;

use crate::report::Reporter;

/// One change to the host. `Display` says what it will do, in one line.
pub trait Step: fmt::Display {
    /// Stable word, used in the journal and the receipt.
    fn name(&self) -> &'static str;
    /// Looks, never touches.
    fn is_done(&self) -> Result<bool>;
    /// Touches. Safe to run again after a power cut half-way through.
    fn apply(&self, report: &mut Reporter) -> Result<()>;
    /// Does it leave something behind that the next boot finds? What only starts or waits is not a change to the host.
    fn is_lasting(&self) -> bool {
        true
    }
    /// Does it act on a running machine, and not only on files? Such a step is passed over with `--root`.
    fn needs_machine(&self) -> bool {
        false
    }
}
