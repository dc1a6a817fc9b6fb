//! Keeps one IPVS virtual server of this node pointing at the apiservers that answer.
//!
//! The program is `main.rs`; this library is its parts, so that tests and the guest's self-test can use them.

pub mod connections;
pub mod fleet;
pub mod flows;
pub mod health;
pub mod ipvs;
pub mod route;
pub mod sysctl;
pub mod table;
