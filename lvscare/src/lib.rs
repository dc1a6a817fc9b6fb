//! Keeps one IPVS virtual server of this node pointing at the apiservers that answer.
//!
//! The program is `main.rs`; this library is its parts, so that tests and the guest's self-test can use them.

pub mod beat;
pub mod care;
pub mod cli;
pub mod connections;
pub mod discover;
pub mod fleet;
pub mod flows;
pub mod health;
pub mod histogram;
pub mod ipvs;
pub mod kernel;
pub mod members;
pub mod once;
pub mod probe;
pub mod route;
pub mod server;
pub mod status;
pub mod sysctl;
pub mod table;
pub mod tls;
pub mod watch;
pub mod watches;
pub mod yaml;
