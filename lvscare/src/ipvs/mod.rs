//! The kernel's IPVS table over generic netlink (`linux/ip_vs.h`; the same in 6.1 and 6.12).
//!
//! A codec and a client, with no opinion on what should be in the table: that is `table` and `pool`.
//! The table has other tenants (kube-proxy, keepalived), so whatever is not understood is kept as it came
//! and never makes a listing fail; and `FLUSH`, which wipes everybody, does not exist here.

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
