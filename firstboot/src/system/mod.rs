//! The only code that touches the machine.
//!
//! Makes no decisions, and logs nothing above debug.

pub mod accounts;
pub mod command;
pub mod credentials;
pub mod disks;
pub mod files;
pub mod machine;
pub mod netlink;
pub mod runtime;
pub mod systemd;
pub mod uevent;
pub mod usage;
