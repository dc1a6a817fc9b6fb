//! The changes that firstboot makes to a host, one file each; those of Kubernetes are in
//! [`cluster`].
//!
//! To add one: a type with [`Step`] in a file here, a line in the lists of `plan.rs`, and its name
//! in `userdata::role`. A step checks on the machine whether it is done, and is repeatable after a
//! power cut at any point of `apply`.

pub mod addresses;
pub mod boot_scripts;
pub mod ca_certs;
pub mod cluster;
pub mod files;
pub mod final_message;
pub mod hooks;
pub mod hostname;
pub mod hosts;
pub mod kernel;
pub mod locale;
pub mod mounts;
pub mod network;
pub mod ntp;
pub mod phone_home;
pub mod power_state;
pub mod recovery_key;
pub mod resolv_conf;
pub mod scripts;
pub mod service_routes;
pub mod ssh;
pub mod timezone;
pub mod unit;
pub mod users;

use std::fmt;

use anyhow::Result;

use crate::report::Reporter;

/// One change to the host. `Display` describes it in one line, in the imperative.
pub trait Step: fmt::Display {
    /// Stable name in the journal and the receipt.
    fn name(&self) -> &'static str;
    /// Whether the change is made already. Changes nothing.
    fn is_done(&self) -> Result<bool>;
    /// Makes the change. Safe to run again after a power cut.
    fn apply(&self, report: &mut Reporter) -> Result<()>;
    /// Whether the change lasts until the next boot. Steps that only start something or wait return
    /// false.
    fn is_lasting(&self) -> bool {
        true
    }
    /// Whether it needs a running machine, not only files. Such a step is skipped with `--root`.
    fn needs_machine(&self) -> bool {
        false
    }
}
