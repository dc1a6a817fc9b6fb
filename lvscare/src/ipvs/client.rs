//! Requests to the kernel's IPVS, one at a time, each with a deadline.
//!
//! Blocking, because an exchange with the local kernel takes microseconds, less than a thread or
//! task would cost. No retries: after a race the caller reads the table again and decides again.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_GENERIC};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;

use super::attributes::{Attribute, FamilyAttribute, Nested, Text, parse_all};
use super::message::{Body, Command, IpvsMessage};
use super::types::{Destination, Identity, Info, Service};

/// Timeout of one message; a long dump has many.
const DEADLINE: Duration = Duration::from_secs(1);

/// The kernel fills the buffer of a dump, up to 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this kernel has no IPVS: module `ip_vs` is missing or may not be loaded")]
    Absent,
    /// The kernel returned an error.
    #[error("the kernel answered {0}")]
    Kernel(Errno),
    #[error("no answer from the kernel within {DEADLINE:?}")]
    Timeout,
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    #[error("unreadable answer: {0}")]
    Decode(#[from] DecodeError),
}

impl Error {
    /// Another program changed the table after it was read: read it again.
    pub fn is_race(&self) -> bool {
        // EEXIST: created meanwhile. ESRCH: no such service. ENOENT: no such destination.
        matches!(
            self,
            Self::Kernel(Errno::EEXIST | Errno::ESRCH | Errno::ENOENT)
        )
    }
}

/// A socket to the IPVS of this network namespace. Needs `CAP_NET_ADMIN`.
#[derive(Debug)]
pub struct Ipvs {
    socket: Socket,
    family: u16,
    sequence: u32,
}

impl Ipvs {
    /// Requests the family by name, which makes the kernel load `ip_vs` if necessary
    /// (module alias `net-pf-16-proto-16-family-IPVS`).
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddress::new(0, 0))?;
        let mut ipvs = Self {
            socket,
            family: 0,
            sequence: 0,
        };
        ipvs.family = ipvs.look_up()?;
        Ok(ipvs)
    }

    pub fn info(&mut self) -> Result<Info, Error> {
        let answers = self.exchange(
            NLM_F_ACK,
            IpvsMessage::request(Command::GET_INFO, Vec::new()),
        )?;
        let info = answers.iter().find_map(|answer| match &answer.body {
            Body::Info(attributes) => Some(Info::from_attributes(attributes)),
            Body::Table(_) => None,
        });
        Ok(info.unwrap_or_default())
    }

    /// All services, also those of other programs.
    pub fn services(&mut self) -> Result<Vec<Service>, Error> {
        let answers = self.exchange(
            NLM_F_DUMP,
            IpvsMessage::request(Command::GET_SERVICE, Vec::new()),
        )?;
        Ok(services(&answers))
    }

    /// One service; the cost does not depend on the size of the table.
    pub fn service(&mut self, identity: Identity) -> Result<Option<Service>, Error> {
        match self.exchange(NLM_F_ACK, about(Command::GET_SERVICE, identity)) {
            Ok(answers) => Ok(services(&answers).into_iter().next()),
            Err(Error::Kernel(Errno::ESRCH)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The real servers of the TCP service at `address`, in the kernel's order. Empty, without an
    /// error, if the service does not exist: the kernel does not distinguish the two.
    pub fn destinations(&mut self, address: SocketAddr) -> Result<Vec<Destination>, Error> {
        let request = about(Command::GET_DESTINATION, Identity::tcp(address));
        let answers = self.exchange(NLM_F_DUMP, request)?;
        let nested = tables(&answers).filter_map(|attribute| match attribute {
            Attribute::Destination(nested) => Destination::from_attributes(address, &nested.0),
            _ => None,
        });
        Ok(nested.collect())
    }

    pub fn new_service(&mut self, service: &Service) -> Result<(), Error> {
        self.write(Command::NEW_SERVICE, service.attributes(), None)
    }

    pub fn set_service(&mut self, service: &Service) -> Result<(), Error> {
        self.write(Command::SET_SERVICE, service.attributes(), None)
    }

    /// Deletes its real servers too.
    pub fn delete_service(&mut self, identity: Identity) -> Result<(), Error> {
        self.write(Command::DEL_SERVICE, identity.attributes(), None)
    }

    pub fn new_destination(
        &mut self,
        service: Identity,
        destination: &Destination,
    ) -> Result<(), Error> {
        self.write(
            Command::NEW_DESTINATION,
            service.attributes(),
            Some(destination),
        )
    }

    pub fn set_destination(
        &mut self,
        service: Identity,
        destination: &Destination,
    ) -> Result<(), Error> {
        self.write(
            Command::SET_DESTINATION,
            service.attributes(),
            Some(destination),
        )
    }

    pub fn delete_destination(
        &mut self,
        service: Identity,
        destination: &Destination,
    ) -> Result<(), Error> {
        self.write(
            Command::DEL_DESTINATION,
            service.attributes(),
            Some(destination),
        )
    }

    fn write(
        &mut self,
        command: Command,
        service: Vec<super::ServiceAttribute>,
        destination: Option<&Destination>,
    ) -> Result<(), Error> {
        let mut attributes = vec![Attribute::Service(Nested(service))];
        attributes.extend(
            destination.map(|destination| Attribute::Destination(Nested(destination.attributes()))),
        );
        self.exchange(NLM_F_ACK, IpvsMessage::request(command, attributes))?;
        Ok(())
    }

    fn look_up(&mut self) -> Result<u16, Error> {
        let name = FamilyAttribute::Name(Text(IpvsMessage::family_name().to_owned()));
        let answers = match self.exchange(NLM_F_ACK, FamilyMessage(vec![name])) {
            Err(Error::Kernel(Errno::ENOENT)) => return Err(Error::Absent),
            answers => answers?,
        };
        let id =
            answers
                .iter()
                .flat_map(|answer| &answer.0)
                .find_map(|attribute| match attribute {
                    FamilyAttribute::Id(id) => Some(*id),
                    _ => None,
                });
        id.ok_or(Error::Absent)
    }

    /// Sends one request and collects its responses up to the acknowledgement or the end of the
    /// dump.
    fn exchange<M>(&mut self, kind: u16, message: M) -> Result<Vec<M>, Error>
    where
        M: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + std::fmt::Debug,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut payload = GenlMessage::from_payload(message);
        payload.set_resolved_family_id(self.family);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | kind;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(payload));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        self.collect()
    }

    fn collect<M>(&self) -> Result<Vec<M>, Error>
    where
        M: ParseableParametrized<[u8], GenlHeader> + std::fmt::Debug,
    {
        let mut answers = Vec::new();
        let mut interrupted = false;
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        loop {
            self.receive(&mut buffer, Instant::now() + DEADLINE)?;
            let mut rest = buffer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<GenlMessage<M>>::deserialize(rest)?;
                let length = (message.header.length as usize)
                    .next_multiple_of(4)
                    .min(rest.len());
                rest = &rest[length..];
                if message.header.sequence_number != self.sequence {
                    // The late response to a request that timed out.
                    continue;
                }
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer.into_parts().1),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(Error::Kernel(Errno::from_raw(
                            error.raw_code().saturating_neg(),
                        )));
                    }
                    // The table changed during the dump, which is a race too.
                    NetlinkPayload::Done(_) if interrupted => {
                        return Err(Error::Kernel(Errno::EEXIST));
                    }
                    NetlinkPayload::Done(done) if done.code != 0 => {
                        return Err(Error::Kernel(Errno::from_raw(done.code.saturating_neg())));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }

    fn receive(&self, buffer: &mut Vec<u8>, deadline: Instant) -> Result<(), Error> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // A zero timeout would mean no timeout.
            if left < Duration::from_millis(1) {
                return Err(Error::Timeout);
            }
            let micros = i64::try_from(left.as_micros()).unwrap_or(i64::MAX);
            setsockopt(
                &self.socket,
                ReceiveTimeout,
                &TimeVal::new(micros / 1_000_000, micros % 1_000_000),
            )
            .map_err(io::Error::from)?;
            buffer.clear();
            match self.socket.recv(buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Error::Timeout);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn about(command: Command, identity: Identity) -> IpvsMessage {
    IpvsMessage::request(
        command,
        vec![Attribute::Service(Nested(identity.attributes()))],
    )
}

fn tables(answers: &[IpvsMessage]) -> impl Iterator<Item = &Attribute> {
    answers.iter().flat_map(|answer| match &answer.body {
        Body::Table(attributes) => attributes.as_slice(),
        Body::Info(_) => &[],
    })
}

fn services(answers: &[IpvsMessage]) -> Vec<Service> {
    let nested = tables(answers).filter_map(|attribute| match attribute {
        Attribute::Service(nested) => Some(Service::from_attributes(&nested.0)),
        _ => None,
    });
    nested.collect()
}

/// `CTRL_CMD_GETFAMILY` and its response. netlink-packet-generic has it too, but fails on unknown
/// attributes, and newer kernels add some.
#[derive(Debug)]
struct FamilyMessage(Vec<FamilyAttribute>);

impl GenlFamily for FamilyMessage {
    fn family_name() -> &'static str {
        "nlctrl"
    }

    /// `GENL_ID_CTRL`.
    fn family_id(&self) -> u16 {
        16
    }

    /// `CTRL_CMD_GETFAMILY`.
    fn command(&self) -> u8 {
        3
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for FamilyMessage {
    fn buffer_len(&self) -> usize {
        self.0.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.0.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for FamilyMessage {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        parse_all(bytes).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_ipvs_says_so() {
        // With IPVS it opens, without it fails; a hang or an invalid response is a bug.
        match Ipvs::open() {
            Ok(_) | Err(Error::Absent) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
