//! The edges: the only code that touches the machine.
//!
//! No decisions are made here, and nothing is logged above debug except the output of programs.

pub mod accounts;
pub mod command;
pub mod disks;
pub mod files;
pub mod machine;
pub mod netlink;
pub mod runtime;
pub mod systemd;
pub mod uevent;
pub mod usage;
