//! Boots machines and asks them.
//!
//! The shortest test, whole:
//!
//! ```no_run
//! use vm_tests::{cluster, host::Host, run::Run};
//!
//! # fn main() -> anyhow::Result<()> {
//! let Some(host) = Host::or_skip()? else { return Ok(()) };
//! let run = Run::new("boots_to_ready")?;
//! # Ok(())
//! # }
//! ```

pub mod artifacts;
pub mod cluster;
pub mod console;
pub mod credential;
pub mod disk;
pub mod door;
pub mod formed;
pub mod guest;
pub mod host;
pub mod initrd;
pub mod journal;
pub mod kube;
pub mod lvscare_guest;
pub mod net;
pub mod pcap;
pub mod qemu;
pub mod qmp;
pub mod run;
pub mod tools;
pub mod vm;
