//! Connections of the status port: who may stay when many come.
//!
//! Anybody in the network can connect, so a connection without a certificate of this cluster ends
//! soon, and a new one takes the place of an old one where there are too many. Those that have
//! shown the certificate of a reader stay.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Connections without a reader's certificate.
const STRANGERS: usize = 128;
/// Connections with one: `firstboot status --all` of each master opens one.
const READERS: usize = 32;
/// The program ends after this time without a connection.
const IDLE: Duration = Duration::from_secs(30);
/// And after this one: it has read the certificates once, and a document may bring new ones.
const LIFE: Duration = Duration::from_secs(600);
/// Each thread does one TLS handshake.
const STACK: usize = 256 << 10;

/// Calls `serve` for each connection in a thread of its own, until no client connects for a while.
pub(super) fn run(
    listener: &TcpListener,
    serve: impl Fn(TcpStream, IpAddr, &Place) + Send + Sync + 'static,
) -> Result<()> {
    listener
        .set_nonblocking(true)
        .context("preparing the socket")?;
    let (open, serve) = (Arc::new(Open::default()), Arc::new(serve));
    let (began, mut last) = (Instant::now(), Instant::now());
    while last.elapsed() < IDLE && began.elapsed() < LIFE {
        let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let left = IDLE.saturating_sub(last.elapsed());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut ready, left).context("waiting for a connection")?;
        let (stream, peer) = match listener.accept() {
            Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
            // The client has gone already.
            Err(error) if is_passing(error.kind()) => continue,
            Err(error) => return Err(error).context("accepting a connection"),
        };
        last = Instant::now();
        let Ok(place) = open.enter(&stream, peer) else {
            continue;
        };
        let serve = Arc::clone(&serve);
        let started = thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || serve(stream, peer, &place));
        // Those that are served now end within seconds, and make room.
        if let Err(error) = started {
            log::warn!("starting a thread for {peer}: {error}; the connection is closed");
        }
    }
    open.wait_until_empty();
    Ok(())
}

fn is_passing(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
    )
}

/// The open connections, the oldest first.
#[derive(Default)]
struct Open {
    slots: Mutex<(u64, Vec<Slot>)>,
    left: Condvar,
}

struct Slot {
    id: u64,
    source: IpAddr,
    is_reader: bool,
    stream: TcpStream,
}

/// The place of one connection; dropping it makes room.
pub(super) struct Place {
    id: u64,
    open: Arc<Open>,
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, (u64, Vec<Slot>)> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, stream: &TcpStream, peer: IpAddr) -> std::io::Result<Place> {
        stream.set_nonblocking(false)?;
        let stream = stream.try_clone()?;
        let mut slots = self.lock();
        let (next, slots) = &mut *slots;
        *next += 1;
        make_room(slots, false, STRANGERS - 1);
        slots.push(Slot {
            id: *next,
            source: network(peer),
            is_reader: false,
            stream,
        });
        Ok(Place {
            id: *next,
            open: Arc::clone(self),
        })
    }

    fn wait_until_empty(&self) {
        let slots = self.lock();
        drop(self.left.wait_while(slots, |(_, slots)| !slots.is_empty()));
    }
}

impl Place {
    /// The client has shown the certificate of a reader.
    pub(super) fn admit(&self) {
        let mut slots = self.open.lock();
        make_room(&mut slots.1, true, READERS - 1);
        if let Some(slot) = slots.1.iter_mut().find(|slot| slot.id == self.id) {
            slot.is_reader = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.lock().1.retain(|slot| slot.id != self.id);
        self.open.left.notify_all();
    }
}

/// Closes connections of one kind until at most `most` are left.
fn make_room(slots: &mut Vec<Slot>, readers: bool, most: usize) {
    while let Some(at) = superfluous(
        &slots
            .iter()
            .map(|slot| (slot.is_reader == readers).then_some(slot.source))
            .collect::<Vec<_>>(),
        most,
    ) {
        // Its thread ends with an error.
        let _ = slots.remove(at).stream.shutdown(Shutdown::Both);
    }
}

/// Which of more than `most` connections has to go: the oldest one of the network with the most.
/// `None` stands for connections of the other kind.
fn superfluous(sources: &[Option<IpAddr>], most: usize) -> Option<usize> {
    let each = || sources.iter().enumerate();
    let of_kind = || each().filter_map(|(at, one)| Some((at, (*one)?)));
    if of_kind().count() <= most {
        return None;
    }
    let count = |source: IpAddr| of_kind().filter(|(_, other)| *other == source).count();
    let oldest = of_kind().rev().max_by_key(|(_, source)| count(*source));
    oldest.map(|(at, _)| at)
}

/// One machine has all addresses of an IPv6 network.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(texts: &[&str]) -> Vec<Option<IpAddr>> {
        let parse = |text: &&str| text.parse().ok().map(network);
        texts.iter().map(parse).collect()
    }

    #[test]
    fn oldest_connection_of_the_busiest_network_goes() {
        for (open, most, gone) in [
            (&["10.0.0.1", "10.0.0.2"][..], 2, None),
            (&["10.0.0.1", "10.0.0.2", "10.0.0.2"], 2, Some(1)),
            (&["10.0.0.1", "10.0.0.2", "10.0.0.3"], 2, Some(0)),
            // All addresses of a network are one source.
            (&["10.0.0.1", "fd00::1", "fd00::2"], 2, Some(1)),
            // A connection of the other kind is not counted and stays.
            (&["other", "other", "10.0.0.1"], 1, None),
            (&["other", "10.0.0.1", "10.0.0.2"], 1, Some(1)),
            (&["10.0.0.1"], 0, Some(0)),
        ] {
            assert_eq!(superfluous(&sources(open), most), gone, "{open:?}");
        }
    }

    #[test]
    fn readers_and_late_comers_keep_their_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let connect = || {
            let client = TcpStream::connect(at).unwrap();
            (client, listener.accept().unwrap().0)
        };
        let open = Arc::new(Open::default());
        let flood: IpAddr = "10.0.0.66".parse().unwrap();
        let (_reader, stream) = connect();
        let reader = open.enter(&stream, flood).unwrap();
        reader.admit();
        let mut connections = Vec::new();
        for _ in 0..2 * STRANGERS {
            let (client, stream) = connect();
            connections.push((client, open.enter(&stream, flood).unwrap()));
        }
        let (_other, stream) = connect();
        let other = open.enter(&stream, "10.0.0.7".parse().unwrap()).unwrap();
        let (_one_more, stream) = connect();
        connections.push((_one_more, open.enter(&stream, flood).unwrap()));
        let ids: Vec<u64> = open.lock().1.iter().map(|slot| slot.id).collect();
        assert_eq!(ids.len(), STRANGERS + 1);
        assert!(ids.contains(&reader.id) && ids.contains(&other.id));
        drop((reader, other, connections));
        open.wait_until_empty();
    }
}
