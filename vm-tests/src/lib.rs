//! Boots machines and asks them.
//!
//! The shortest test, whole:
//!
//! ```no_run
//! use vm_tests::site::Site;
//!
//! # fn main() -> anyhow::Result<()> {
//! let Some(mut site) = Site::new("forms", "ha")? else { return Ok(()) };
//! site.start_all()?;
//! site.wait_ready()?;
//! site.is_whole()?;
//! site.passed();
//! # Ok(())
//! # }
//! ```

pub mod artifacts;
pub mod asking;
pub mod cluster;
pub mod console;
pub mod credential;
pub mod disk;
pub mod door;
pub mod etcd;
pub mod formed;
mod frame;
pub mod guest;
mod guest_loop;
pub mod host;
pub mod initrd;
pub mod journal;
pub mod kube;
pub mod kubelet_flow;
pub mod lvscare_guest;
pub mod net;
pub mod one_apiserver;
pub mod pcap;
pub mod qemu;
pub mod qmp;
pub mod run;
pub mod server;
pub mod servers;
pub mod share;
pub mod site;
pub mod tools;
pub mod usual;
pub mod vm;
pub mod whole;
