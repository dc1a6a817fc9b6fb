//! Container images as containerd stores them, so that first boot imports nothing.

pub mod bbolt;
mod encoding;
mod snapshots;
pub mod store;
