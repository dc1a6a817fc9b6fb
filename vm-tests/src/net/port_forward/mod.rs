//! Forwards local TCP ports of the host to ports of guests.
//!
//! Inside the virtual network it is a TCP/IP stack in this process, connected to one port of the
//! switch. Guests can reach nothing else of the host, and nothing is routed.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpCidr};

use crate::net::switch::Switch;

/// An Ethernet header and the usual MTU of 1500 bytes.
const FRAME: usize = 1514;
const BUFFER: usize = 64 * 1024;
/// A locally administered address that no topology uses.
const MAC: [u8; 6] = [0x02, 0xf1, 0x00, 0x00, 0x00, 0x01];

#[derive(Debug)]
pub struct PortForward {
    shared: Arc<Shared>,
    wake: UnixDatagram,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    listeners: Mutex<Vec<(TcpListener, SocketAddr)>>,
    end: AtomicBool,
}

impl PortForward {
    /// Connects to the switch with an address of each family.
    pub fn start(switch: &Switch, addresses: &[IpNet]) -> Result<Self> {
        let cable = Cable(switch.plug()?);
        cable.0.set_nonblocking(true)?;
        let (wake, woken) = UnixDatagram::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let state = shared.clone();
        let mut stack = Stack::new(cable, addresses);
        let thread = std::thread::Builder::new()
            .name("port-forward".into())
            .spawn(move || {
                while !state.end.load(Ordering::Relaxed) {
                    stack.turn(&state, &woken);
                }
            })?;
        Ok(Self {
            shared,
            wake,
            thread: Some(thread),
        })
    }

    /// Forwards `local_port` on 127.0.0.1 (0: any free port) to `guest`. Returns the local address.
    pub fn forward(&self, local_port: u16, guest: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local_port))
            .with_context(|| format!("listening on 127.0.0.1:{local_port}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        self.shared
            .listeners
            .lock()
            .unwrap_or_else(|bad| bad.into_inner())
            .push((listener, guest));
        let _ = self.wake.send(&[1]);
        Ok(address)
    }
}

impl Drop for PortForward {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        let _ = self.wake.send(&[1]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The TCP/IP stack and its connections.
struct Stack {
    cable: Cable,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    /// Local ports are used in turn, so that the port of a closed connection is not reused soon.
    next_port: u16,
}

struct Connection {
    outside: TcpStream,
    inside: SocketHandle,
    outside_ended: bool,
    outside_closed: bool,
}

impl Stack {
    fn new(mut cable: Cable, given: &[IpNet]) -> Self {
        let mut config = Config::new(EthernetAddress(MAC).into());
        config.random_seed = u64::from(std::process::id());
        let mut interface = Interface::new(config, &mut cable, Instant::now());
        interface.update_ip_addrs(|addresses| {
            for net in given {
                // The list has room for two addresses (`IFACE_MAX_ADDR_COUNT`).
                let _ = addresses.push(IpCidr::new(net.addr().into(), net.prefix_len()));
            }
        });
        Self {
            cable,
            interface,
            sockets: SocketSet::new(Vec::new()),
            connections: Vec::new(),
            // Each process starts at another port: a restored guest may still hold a connection to
            // the port of an earlier process.
            next_port: 49152 + (std::process::id() % 16_000) as u16,
        }
    }

    /// Waits for events and handles all of them once.
    fn turn(&mut self, shared: &Shared, woken: &UnixDatagram) {
        let listeners: Vec<_> = {
            let listeners = shared
                .listeners
                .lock()
                .unwrap_or_else(|bad| bad.into_inner());
            listeners
                .iter()
                .filter_map(|(listener, guest)| Some((listener.try_clone().ok()?, *guest)))
                .collect()
        };
        self.sleep(&listeners, woken);
        let mut byte = [0; 8];
        while woken.recv(&mut byte).is_ok() {}
        for (listener, guest) in &listeners {
            while let Ok((outside, _)) = listener.accept() {
                self.connect(outside, *guest);
            }
        }
        self.interface
            .poll(Instant::now(), &mut self.cable, &mut self.sockets);
        self.connections
            .retain_mut(|connection| connection.pump(&mut self.sockets));
        // Sends what `pump` has just written to the buffers.
        self.interface
            .poll(Instant::now(), &mut self.cable, &mut self.sockets);
    }

    fn sleep(&mut self, listeners: &[(TcpListener, SocketAddr)], woken: &UnixDatagram) {
        let delay = self.interface.poll_delay(Instant::now(), &self.sockets);
        let timeout = delay
            .and_then(|delay| {
                PollTimeout::try_from(delay.total_millis().min(60_000) as i32 + 1).ok()
            })
            .unwrap_or(PollTimeout::NONE);
        let mut polled = vec![
            PollFd::new(self.cable.0.as_fd(), PollFlags::POLLIN),
            PollFd::new(woken.as_fd(), PollFlags::POLLIN),
        ];
        polled.extend(
            listeners
                .iter()
                .map(|(listener, _)| PollFd::new(listener.as_fd(), PollFlags::POLLIN)),
        );
        for connection in &self.connections {
            let flags = connection.interest(self.sockets.get::<tcp::Socket>(connection.inside));
            if !flags.is_empty() {
                polled.push(PollFd::new(connection.outside.as_fd(), flags));
            }
        }
        let _ = poll(&mut polled, timeout);
    }

    fn connect(&mut self, outside: TcpStream, guest: SocketAddr) {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        // A guest that is off never answers; the client gets an error after this timeout.
        socket.set_timeout(Some(Duration::from_secs(60)));
        socket.set_nagle_enabled(false);
        self.next_port = if self.next_port == u16::MAX {
            49152
        } else {
            self.next_port + 1
        };
        let connected = socket.connect(
            self.interface.context(),
            (guest.ip(), guest.port()),
            self.next_port,
        );
        if connected.is_ok() && outside.set_nonblocking(true).is_ok() {
            let inside = self.sockets.add(socket);
            self.connections.push(Connection {
                outside,
                inside,
                outside_ended: false,
                outside_closed: false,
            });
        }
    }
}

impl Connection {
    /// The events of the local socket that `pump` can handle.
    fn interest(&self, socket: &tcp::Socket<'_>) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, !self.outside_ended && socket.can_send());
        flags.set(PollFlags::POLLOUT, socket.can_recv());
        flags
    }

    /// Copies bytes in both directions. Returns `false` when the connection has ended.
    fn pump(&mut self, sockets: &mut SocketSet<'_>) -> bool {
        let socket = sockets.get_mut::<tcp::Socket>(self.inside);
        if self
            .move_out(socket)
            .and_then(|()| self.move_in(socket))
            .is_err()
        {
            socket.abort();
        }
        if !socket.is_open() {
            sockets.remove(self.inside);
            return false;
        }
        true
    }

    fn move_out(&mut self, socket: &mut tcp::Socket<'_>) -> io::Result<()> {
        while socket.can_recv() {
            let sent = socket
                .recv(|bytes| match self.outside.write(bytes) {
                    Ok(count) => (count, Ok(count)),
                    Err(error) => (0, Err(error)),
                })
                .map_err(io::Error::other)?;
            match sent {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        // The guest has closed its side: the client reads end-of-file, and may still write.
        if !socket.may_recv() && !self.outside_closed && socket.state() != tcp::State::SynSent {
            self.outside_closed = true;
            self.outside.shutdown(std::net::Shutdown::Write)?;
        }
        Ok(())
    }

    fn move_in(&mut self, socket: &mut tcp::Socket<'_>) -> io::Result<()> {
        while !self.outside_ended && socket.can_send() {
            let received = socket
                .send(|room| match self.outside.read(room) {
                    Ok(count) => (count, Ok(count)),
                    Err(error) => (0, Err(error)),
                })
                .map_err(io::Error::other)?;
            match received {
                Ok(0) => {
                    self.outside_ended = true;
                    socket.close();
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The socket to the switch, as a device of smoltcp.
struct Cable(UnixDatagram);

struct Received(Vec<u8>);

struct Sending<'a>(&'a UnixDatagram);

impl Device for Cable {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let mut frame = vec![0; FRAME];
        let length = self.0.recv(&mut frame).ok()?;
        frame.truncate(length);
        Some((Received(frame), Sending(&self.0)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        // With a full queue the stack must wait: a lost frame would be repeated after a second
        // only.
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        let ready = poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0);
        ready.then_some(Sending(&self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        // A full queue loses the frame, and TCP repeats it.
        let _ = self.0.send(&frame);
        result
    }
}

#[cfg(test)]
mod tests;
