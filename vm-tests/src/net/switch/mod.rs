//! A learning switch over Unix datagram sockets, which needs no privileges.
//!
//! One datagram is one Ethernet frame. The switch forwards, delays, drops and records frames; it
//! sends none of its own.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::host::run_dir::RunDir;
use crate::machine::qemu::Nic;
use crate::net::frame::{destination, mac};
use crate::net::pcap::Capture;

/// Large enough for any frame of virtio-net without offloads, and for offloaded segments too.
const MAX_FRAME: usize = 70_000;

/// The most frames that wait for one receiver.
const MAX_QUEUE: usize = 512;

/// The link quality of one port, for incoming and outgoing frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quality {
    pub cut: bool,
    pub delay: Duration,
    /// The percentage of frames that are lost. The same frames are lost in every run.
    pub drop_percent: u8,
}

#[derive(Debug)]
pub struct Switch {
    folder: PathBuf,
    shared: Arc<Mutex<State>>,
    /// A datagram on this socket makes the thread read the list of ports again.
    wake: UnixDatagram,
    thread: Option<JoinHandle<()>>,
}

/// One socket of the switch.
#[derive(Debug, Clone)]
pub struct Port {
    number: usize,
    shared: Arc<Mutex<State>>,
    local: PathBuf,
    remote: PathBuf,
}

#[derive(Debug)]
struct State {
    ports: Vec<PortState>,
    addresses: HashMap<[u8; 6], usize>,
    late: Vec<(Instant, usize, Vec<u8>)>,
    destinations: BTreeSet<IpAddr>,
    capture: Option<Capture>,
    random: u32,
    end: bool,
}

#[derive(Debug)]
struct PortState {
    socket: UnixDatagram,
    /// `None` if the socket is one of a connected pair.
    remote: Option<PathBuf>,
    quality: Quality,
    frames: u64,
    /// Frames that did not fit into the kernel's queue of ten (net.unix.max_dgram_qlen).
    waiting: VecDeque<Vec<u8>>,
}

impl Switch {
    pub fn start(run_dir: &RunDir) -> Result<Self> {
        let folder = run_dir.sockets("switch")?;
        let (wake, woken) = UnixDatagram::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Mutex::new(State {
            ports: Vec::new(),
            addresses: HashMap::new(),
            late: Vec::new(),
            destinations: BTreeSet::new(),
            capture: None,
            random: 0x2545_f491,
            end: false,
        }));
        let state = shared.clone();
        let thread = std::thread::Builder::new()
            .name("switch".into())
            .spawn(move || forward(&state, &woken))?;
        Ok(Self {
            folder,
            shared,
            wake,
            thread: Some(thread),
        })
    }

    /// Adds a port for a machine's network card.
    pub fn port(&self) -> Result<Port> {
        let number = lock(&self.shared).ports.len();
        let (local, remote) = (
            self.folder.join(format!("{number}.machine")),
            self.folder.join(format!("{number}.switch")),
        );
        let socket = UnixDatagram::bind(&remote)
            .with_context(|| format!("binding `{}`", remote.display()))?;
        self.add(socket, Some(local.clone()))?;
        Ok(Port {
            number,
            shared: self.shared.clone(),
            local,
            remote,
        })
    }

    /// Adds a port for the harness, and returns the other end of it.
    pub fn plug(&self) -> Result<UnixDatagram> {
        let (ours, theirs) = UnixDatagram::pair()?;
        self.add(ours, None)?;
        Ok(theirs)
    }

    /// Writes every frame that arrives from now on to a pcap file.
    pub fn record(&self, path: &Path) -> Result<()> {
        lock(&self.shared).capture = Some(Capture::create(path)?);
        Ok(())
    }

    /// The destinations of all IP packets so far.
    pub fn destinations(&self) -> BTreeSet<IpAddr> {
        lock(&self.shared).destinations.clone()
    }

    fn add(&self, socket: UnixDatagram, remote: Option<PathBuf>) -> Result<()> {
        socket.set_nonblocking(true)?;
        lock(&self.shared).ports.push(PortState {
            socket,
            remote,
            quality: Quality::default(),
            frames: 0,
            waiting: VecDeque::new(),
        });
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // A full queue wakes the thread too.
        let _ = self.wake.send(&[1]);
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        lock(&self.shared).end = true;
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Port {
    /// The network card that is connected to this port.
    pub fn nic(&self, mac: &str) -> Nic {
        // A killed QEMU leaves its socket file behind, and the next one could not bind to it.
        let _ = std::fs::remove_file(&self.local);
        Nic {
            mac: mac.to_string(),
            local: self.local.clone(),
            remote: self.remote.clone(),
        }
    }

    pub fn set(&self, quality: Quality) {
        lock(&self.shared).ports[self.number].quality = quality;
    }

    /// The number of frames that arrived at this port.
    pub fn frames(&self) -> u64 {
        lock(&self.shared).ports[self.number].frames
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|bad| bad.into_inner())
}

fn forward(shared: &Mutex<State>, woken: &UnixDatagram) {
    let mut frame = vec![0; MAX_FRAME];
    loop {
        let (sockets, timeout) = {
            let mut state = lock(shared);
            if state.end {
                return;
            }
            let sockets: Vec<_> = state
                .ports
                .iter()
                .filter_map(|port| port.socket.try_clone().ok())
                .collect();
            (sockets, state.deliver_late())
        };
        wait(&sockets, woken, timeout, shared, &mut frame);
    }
}

/// Waits for frames, a new port or a due frame, and forwards what has arrived.
fn wait(
    sockets: &[UnixDatagram],
    woken: &UnixDatagram,
    timeout: PollTimeout,
    shared: &Mutex<State>,
    frame: &mut [u8],
) {
    let mut polled: Vec<PollFd<'_>> = sockets
        .iter()
        .chain([woken])
        .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
        .collect();
    if poll(&mut polled, timeout).is_err() {
        return;
    }
    let mut byte = [0; 8];
    while woken.recv(&mut byte).is_ok() {}
    let mut state = lock(shared);
    for (number, socket) in sockets.iter().enumerate() {
        // The batch is bounded, so that one busy machine does not starve the others.
        for _ in 0..64 {
            match socket.recv(frame) {
                Ok(length) if length >= 14 => state.receive(number, &frame[..length]),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
}

impl State {
    fn receive(&mut self, from: usize, frame: &[u8]) {
        self.ports[from].frames += 1;
        if let Some(address) = destination(frame) {
            self.destinations.insert(address);
        }
        if let Some(capture) = &mut self.capture {
            capture.write(frame);
        }
        let (to, source) = (mac(&frame[..6]), mac(&frame[6..12]));
        self.addresses.insert(source, from);
        if self.is_lost(from) {
            return;
        }
        // The lowest bit of the first byte marks group addresses (IEEE 802.3, 3.2.3).
        let known = (to[0] & 1 == 0)
            .then(|| self.addresses.get(&to).copied())
            .flatten();
        let outs: Vec<usize> = match known {
            Some(port) => vec![port],
            None => (0..self.ports.len()).collect(),
        };
        for out in outs.into_iter().filter(|&out| out != from) {
            let delay = self.ports[from].quality.delay + self.ports[out].quality.delay;
            if self.is_lost(out) {
                continue;
            }
            if delay.is_zero() {
                self.send(out, frame);
            } else {
                self.late
                    .push((Instant::now() + delay, out, frame.to_vec()));
            }
        }
    }

    fn send(&mut self, out: usize, frame: &[u8]) {
        let port = &mut self.ports[out];
        // A machine that does not read for a long time loses frames, as on a real link.
        if port.waiting.len() < MAX_QUEUE && (!port.waiting.is_empty() || !port.deliver(frame)) {
            port.waiting.push_back(frame.to_vec());
        }
    }

    /// Sends queued frames. Returns whether frames are left.
    fn deliver_waiting(&mut self) -> bool {
        for port in &mut self.ports {
            while let Some(frame) = port.waiting.pop_front() {
                if !port.deliver(&frame) {
                    port.waiting.push_front(frame);
                    break;
                }
            }
        }
        self.ports.iter().any(|port| !port.waiting.is_empty())
    }

    fn is_lost(&mut self, port: usize) -> bool {
        let quality = self.ports[port].quality;
        if quality.cut {
            return true;
        }
        if quality.drop_percent == 0 {
            return false;
        }
        // xorshift32 with a fixed seed: a failing run can be repeated.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random % 100 < u32::from(quality.drop_percent)
    }

    /// Sends due frames. Returns how long to wait for the next one.
    fn deliver_late(&mut self) -> PollTimeout {
        let waiting = self.deliver_waiting();
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.late)
            .into_iter()
            .partition(|(at, ..)| *at <= now);
        self.late = later;
        for (_, out, frame) in due {
            self.send(out, &frame);
        }
        if waiting {
            // The kernel does not notify when an unconnected receiver has room again.
            return PollTimeout::from(1u8);
        }
        let next = self
            .late
            .iter()
            .map(|(at, ..)| at.saturating_duration_since(now))
            .min();
        next.and_then(|wait| PollTimeout::try_from(wait + Duration::from_millis(1)).ok())
            .unwrap_or(PollTimeout::NONE)
    }
}

impl PortState {
    /// Returns `false` if the receiver's queue is full. A receiver that is off loses the frame,
    /// like an unplugged cable.
    fn deliver(&self, frame: &[u8]) -> bool {
        let sent: io::Result<usize> = match &self.remote {
            Some(remote) => self.socket.send_to(frame, remote),
            None => self.socket.send(frame),
        };
        !sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

#[cfg(test)]
mod tests;
