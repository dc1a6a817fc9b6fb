//! A door from this host into the virtual network: a local TCP port that leads to a guest's.
//!
//! The network's side is a TCP/IP stack in this process, one more port of the switch; nothing else of the
//! host is reachable from the guests, and nothing is routed.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr};

use crate::net::Switch;

/// Ethernet header and the usual 1500 bytes.
const FRAME: usize = 1514;
const BUFFER: usize = 64 * 1024;
/// A locally administered address that no topology uses.
const MAC: [u8; 6] = [0x02, 0xf1, 0x00, 0x00, 0x00, 0x01];

#[derive(Debug)]
pub struct Door {
    shared: Arc<Shared>,
    wake: UnixDatagram,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    listeners: Mutex<Vec<(TcpListener, SocketAddrV4)>>,
    end: AtomicBool,
}

impl Door {
    /// Joins the switch as `address`/`prefix`.
    pub fn open(switch: &Switch, address: Ipv4Addr, prefix: u8) -> Result<Self> {
        let cable = Cable(switch.plug()?);
        cable.0.set_nonblocking(true)?;
        let (wake, woken) = UnixDatagram::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let state = shared.clone();
        let mut inside = Inside::new(cable, address, prefix);
        let thread = std::thread::Builder::new()
            .name("door".into())
            .spawn(move || {
                while !state.end.load(Ordering::Relaxed) {
                    inside.turn(&state, &woken);
                }
            })?;
        Ok(Self {
            shared,
            wake,
            thread: Some(thread),
        })
    }

    /// Opens a port on 127.0.0.1 (0: any) whose connections go to `guest`; returns where it is.
    pub fn forward(&self, local_port: u16, guest: SocketAddrV4) -> Result<SocketAddr> {
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

impl Drop for Door {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        let _ = self.wake.send(&[1]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The stack and the connections that go through it.
struct Inside {
    cable: Cable,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    /// Local ports are used in turn, so that a closing connection's is not taken again at once.
    next_port: u16,
}

struct Connection {
    outside: TcpStream,
    inside: SocketHandle,
    outside_ended: bool,
    outside_closed: bool,
}

impl Inside {
    fn new(mut cable: Cable, address: Ipv4Addr, prefix: u8) -> Self {
        let mut config = Config::new(EthernetAddress(MAC).into());
        config.random_seed = u64::from(std::process::id());
        let mut interface = Interface::new(config, &mut cable, Instant::now());
        interface.update_ip_addrs(|addresses| {
            // The list has room for one address at least.
            let _ = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(address, prefix)));
        });
        Self {
            cable,
            interface,
            sockets: SocketSet::new(Vec::new()),
            connections: Vec::new(),
            // Not the same for every door: a guest that was restored may still hold a connection to the one before.
            next_port: 49152 + (std::process::id() % 16_000) as u16,
        }
    }

    /// Waits for something to do and does all of it once.
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
        // What was just put into the buffers leaves now and not with the next frame that comes in.
        self.interface
            .poll(Instant::now(), &mut self.cable, &mut self.sockets);
    }

    fn sleep(&mut self, listeners: &[(TcpListener, SocketAddrV4)], woken: &UnixDatagram) {
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

    fn connect(&mut self, outside: TcpStream, guest: SocketAddrV4) {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        // A guest that is off never answers; the client shall hear of it.
        socket.set_timeout(Some(Duration::from_secs(60)));
        socket.set_nagle_enabled(false);
        self.next_port = if self.next_port == u16::MAX {
            49152
        } else {
            self.next_port + 1
        };
        let connected = socket.connect(
            self.interface.context(),
            (*guest.ip(), guest.port()),
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
    /// What of the outside is worth waking up for.
    fn interest(&self, socket: &tcp::Socket<'_>) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, !self.outside_ended && socket.can_send());
        flags.set(PollFlags::POLLOUT, socket.can_recv());
        flags
    }

    /// Moves bytes both ways; `false` once it is over.
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
        // The guest has said its last word: the client sees the end, and may still speak.
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

/// The socket to the switch as smoltcp sees it.
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
        // A full queue holds the stack back; it would otherwise lose what it sends and wait a second to repeat it.
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
        // A full queue loses the frame, and TCP sends it again.
        let _ = self.0.send(&frame);
        result
    }
}

#[cfg(test)]
mod tests;
