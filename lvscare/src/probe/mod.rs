//! Health probes: the request, its connection, and one checker per backend.

pub mod checker;
pub mod checkers;
pub mod connection;
pub mod ticker;
