//! Keeps one IPVS virtual server of this node pointing at the apiservers that are healthy.
//!
//! `main.rs` is the program; this library has its parts, for tests and vm-tests/lvscare-guest.

pub mod apply;
pub mod cli;
pub mod daemon;
pub mod discovery;
mod event_log;
pub mod ipvs;
pub mod pool;
pub mod probe;
mod reconcile;
pub mod route;
pub mod run_once;
pub mod settings;
pub mod sockets;
pub mod status;
pub mod sysctl;
pub mod table;
pub mod tls;
pub mod yaml;
