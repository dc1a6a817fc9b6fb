//! The network between machines. It needs no privileges, but for a [`room`].

mod frame;
pub mod pcap;
pub mod port_forward;
pub mod room;
pub mod serve;
pub mod switch;
pub mod web;
