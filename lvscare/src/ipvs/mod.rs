//! The kernel's IPVS table over generic netlink (`linux/ip_vs.h`; the same in 6.1 and 6.12).
//!
//! A codec and a client; `table` and `pool` decide what should be in the table. Other programs use
//! the table too (kube-proxy, keepalived), so unknown data is kept and never makes a dump fail, and
//! there is no `FLUSH`, which would delete their services.

pub mod attributes;
mod client;
pub mod connections;
#[cfg(test)]
mod golden_tests;
mod message;
mod types;

pub use attributes::{Attribute, DestinationAttribute, ServiceAttribute};
pub use client::{Error, Ipvs};
pub use message::{Body, Command, IpvsMessage};
pub use types::{Destination, Forwarding, Identity, Info, Service, Stats};
