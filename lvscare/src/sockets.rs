//! Closes connections of this host to dead servers, so that their owners get an error immediately.
//!
//! Idle ones (a kubelet's watch) would hang indefinitely, busy ones until the TCP timeout of 15
//! minutes. Sockets of pods are in other network namespaces, out of reach; the kernel resets them
//! at their next packet once the server is deleted (`expire_nodest_conn`).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::ipvs::connections::{self, Connection, Phase};

/// Limit of one call, so that a server with thousands of clients does not delay the checks of
/// others.
const AT_ONCE: usize = 1000;

const TIMEOUT: Duration = Duration::from_secs(1);

/// The result of closing the connections to one server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Sockets of this host that were closed.
    pub destroyed: usize,
    /// Connections beyond the limit of one call: call again.
    pub left: usize,
    /// Open connections of pods, which the kernel resets at their next packet once the server is
    /// deleted.
    pub foreign: usize,
}

/// Closes this host's connections through `service` to `destination`; at most a thousand at once.
/// Needs `CAP_NET_ADMIN` and a kernel with `INET_DIAG_DESTROY`.
pub fn destroy(service: SocketAddr, destination: SocketAddr) -> anyhow::Result<Outcome> {
    let flows = connections::list(|flow| {
        flow.service == service && flow.destination == destination && flow.phase == Phase::Open
    })?;
    if flows.is_empty() {
        return Ok(Outcome::default());
    }
    let diag = Diag::open()?;
    destroy_each(&flows, |flow| diag.destroy(flow.client, flow.service))
}

/// Loads the kernel module for closing sockets in advance, because loading takes a second. An error
/// means that this kernel cannot close sockets.
pub fn prepare(service: SocketAddr) -> anyhow::Result<()> {
    // No connection has port 0.
    let no_client = SocketAddr::new(service.ip(), 0);
    Diag::open()?.destroy(no_client, service).map(drop)
}

/// Skips opening connections: the kernel sends the next SYN to another server. Closed ones show as
/// closed in the next call, so that every call finds others.
fn destroy_each(
    flows: &[Connection],
    mut end: impl FnMut(&Connection) -> anyhow::Result<bool>,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for (n, flow) in flows.iter().enumerate() {
        // A lookup without a socket takes microseconds and does not count.
        if outcome.destroyed == AT_ONCE {
            outcome.left = flows.len() - n;
            break;
        }
        if end(flow)? {
            outcome.destroyed += 1;
        } else {
            outcome.foreign += 1;
        }
    }
    Ok(outcome)
}

/// A sock_diag socket.
#[derive(Debug)]
pub struct Diag(Socket);

impl Diag {
    pub fn open() -> anyhow::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG).context("opening a sock_diag socket")?;
        socket.bind_auto().context("binding a sock_diag socket")?;
        socket
            .connect(&NetlinkAddress::new(0, 0))
            .context("connecting a sock_diag socket")?;
        let timeout = TimeVal::milliseconds(i64::try_from(TIMEOUT.as_millis()).unwrap_or(i64::MAX));
        setsockopt(&socket, ReceiveTimeout, &timeout)
            .context("setting the timeout of a sock_diag socket")?;
        Ok(Self(socket))
    }

    /// Aborts the TCP socket from `local` to `remote`: its owner gets ECONNABORTED. `false`: no
    /// such socket on this host.
    pub fn destroy(&self, local: SocketAddr, remote: SocketAddr) -> anyhow::Result<bool> {
        let request = InetRequest {
            family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId {
                source_port: local.port(),
                destination_port: remote.port(),
                source_address: local.ip(),
                destination_address: remote.ip(),
                interface_id: 0,
                // Any socket with these addresses.
                cookie: [0xff; 8],
            },
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let message = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0
            .send(&bytes, 0)
            .context("asking for a socket's end")?;
        let mut answer = Vec::with_capacity(4096);
        self.0
            .recv(&mut answer, 0)
            .context("waiting for the answer to a socket's end")?;
        match errno(&answer).context("reading the answer to a socket's end")? {
            None => Ok(true),
            Some(Errno::ENOENT) => Ok(false),
            Some(errno) => {
                Err(errno).with_context(|| format!("ending the socket `{local}` to `{remote}`"))
            }
        }
    }
}

/// The code of an acknowledgement. Parsed by hand: it contains our request, and the library parses
/// only responses.
fn errno(answer: &[u8]) -> anyhow::Result<Option<Errno>> {
    let message = NetlinkBuffer::new_checked(answer)?;
    let code = message
        .payload()
        .first_chunk()
        .context("the answer is too short")?;
    let code = i32::from_ne_bytes(*code).saturating_neg();
    Ok((code != 0).then(|| Errno::from_raw(code)))
}

/// Whether `ip` is a local address of this host, which makes a server the preferred one.
pub fn is_local(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn each_call_closes_up_to_1000_sockets() {
        let here = SocketAddr::from(([10, 0, 0, 20], 0));
        let there = SocketAddr::from(([10, 244, 0, 7], 0));
        let flow = |client: SocketAddr, port| Connection {
            client: SocketAddr::new(client.ip(), port),
            service: SocketAddr::from(([10, 103, 97, 2], 6443)),
            destination: SocketAddr::from(([10, 0, 0, 10], 6443)),
            phase: Phase::Open,
        };
        let mut flows: Vec<_> = (0..1500).map(|port| flow(there, port)).collect();
        flows.extend((0..1200).map(|port| flow(here, port)));
        let ours = |flow: &Connection| Ok(flow.client.ip() == here.ip());
        let first = destroy_each(&flows, ours).unwrap();
        assert_eq!(
            (first.destroyed, first.left, first.foreign),
            (1000, 200, 1500)
        );
        let second = destroy_each(&flows[2500..], ours).unwrap();
        assert_eq!((second.destroyed, second.left, second.foreign), (200, 0, 0));
    }

    #[test]
    fn an_idle_connection_ends_at_once_and_another_lives() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(listen).unwrap();
            let remote = listener.local_addr().unwrap();
            let mut stuck = TcpStream::connect(remote).unwrap();
            let mut other = TcpStream::connect(remote).unwrap();
            let diag = Diag::open().unwrap();
            match diag.destroy(stuck.local_addr().unwrap(), remote) {
                Ok(found) => assert!(found, "{listen}"),
                Err(error) => {
                    // Skip without the privilege or kernel option; CI rejects skips.
                    eprintln!("skipped: {error:#}");
                    assert!(std::env::var_os("CI").is_none(), "{error:#}");
                    return;
                }
            }
            assert_eq!(
                stuck.read(&mut [0]).unwrap_err().kind(),
                ErrorKind::ConnectionAborted,
                "{listen}"
            );
            other.set_nonblocking(true).unwrap();
            assert_eq!(
                other.read(&mut [0]).unwrap_err().kind(),
                ErrorKind::WouldBlock,
                "{listen}"
            );
            assert!(
                !diag
                    .destroy(stuck.local_addr().unwrap(), "192.0.2.1:1".parse().unwrap())
                    .unwrap_or(false)
            );
        }
    }
}
