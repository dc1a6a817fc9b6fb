//! The changes that make a machine its document's host, one file each.
//!
//! To add one: a type with [`Step`] in a file here; a line in the role lists of `plan.rs`; its line in `tests/plan.rs`'s
//! snapshots. It asks the machine whether it is done, and may be cut off at any point of `apply`.

pub mod address;
pub mod addresses;
pub mod files;
pub mod hooks;
pub mod hostname;
pub mod hosts;
pub mod init;
pub mod ipvs;
pub mod join;
pub mod join_master;
pub mod kernel;
pub mod kubeadm_config;
pub mod lvscare;
pub mod manifests;
pub mod mark;
pub mod network;
pub mod node_ready;
pub mod ntp;
pub mod scripts;
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
