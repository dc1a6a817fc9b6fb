//! The network between machines. It needs no privileges.

mod frame;
pub mod pcap;
pub mod port_forward;
pub mod room;
pub mod switch;
