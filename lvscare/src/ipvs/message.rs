//! One IPVS request or response in netlink-packet-generic.
//!
//! Has only the command number and the level of the attributes; the client knows which attributes a
//! command needs.

use netlink_packet_core::{DecodeError, Emitable, ParseableParametrized};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use super::attributes::{Attribute, InfoAttribute, parse_all};

/// `enum` of `IPVS_CMD_*`. Without daemon, config, zero and flush: lvscare does not need them, and
/// cannot send them by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command(pub u8);

impl Command {
    pub const NEW_SERVICE: Self = Self(1);
    pub const SET_SERVICE: Self = Self(2);
    pub const DEL_SERVICE: Self = Self(3);
    pub const GET_SERVICE: Self = Self(4);
    pub const NEW_DESTINATION: Self = Self(5);
    pub const SET_DESTINATION: Self = Self(6);
    pub const DEL_DESTINATION: Self = Self(7);
    pub const GET_DESTINATION: Self = Self(8);
    /// The response to `GET_INFO`; never sent.
    pub const SET_INFO: Self = Self(14);
    pub const GET_INFO: Self = Self(15);
}

/// `IPVS_GENL_VERSION`.
const VERSION: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpvsMessage {
    pub command: Command,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Table(Vec<Attribute>),
    Info(Vec<InfoAttribute>),
}

impl IpvsMessage {
    pub fn request(command: Command, attributes: Vec<Attribute>) -> Self {
        Self {
            command,
            body: Body::Table(attributes),
        }
    }
}

impl GenlFamily for IpvsMessage {
    fn family_name() -> &'static str {
        "IPVS"
    }

    fn command(&self) -> u8 {
        self.command.0
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

impl Emitable for IpvsMessage {
    fn buffer_len(&self) -> usize {
        match &self.body {
            Body::Table(attributes) => attributes.as_slice().buffer_len(),
            Body::Info(attributes) => attributes.as_slice().buffer_len(),
        }
    }

    fn emit(&self, buffer: &mut [u8]) {
        match &self.body {
            Body::Table(attributes) => attributes.as_slice().emit(buffer),
            Body::Info(attributes) => attributes.as_slice().emit(buffer),
        }
    }
}

impl ParseableParametrized<[u8], GenlHeader> for IpvsMessage {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let command = Command(header.cmd);
        let body = match command {
            Command::SET_INFO => Body::Info(parse_all(bytes)?),
            _ => Body::Table(parse_all(bytes)?),
        };
        Ok(Self { command, body })
    }
}
