//! Clients of a virtual service: one that sends requests, and ones with a persistent connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use crate::apiserver::{ECHO, NAME};
use crate::netns::Netns;

/// The timeout of one request.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Try {
    pub(crate) at: Instant,
    pub(crate) ended: Instant,
    /// The number of the server that answered.
    pub(crate) by: Result<u8, ErrorKind>,
}

/// Sends requests on new connections at an interval, until dropped.
#[derive(Debug)]
pub(crate) struct Prober {
    stop: Arc<AtomicBool>,
    tries: Arc<Mutex<Vec<Try>>>,
}

impl Prober {
    pub(crate) fn start(netns: &Netns, target: SocketAddr, every: Duration) -> Self {
        let prober = Self {
            stop: Arc::default(),
            tries: Arc::default(),
        };
        let (stop, tries) = (Arc::clone(&prober.stop), Arc::clone(&prober.tries));
        netns.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let at = Instant::now();
                let by = request(target, TIMEOUT).map_err(|error| error.kind());
                let ended = Instant::now();
                lock(&tries).push(Try { at, ended, by });
                std::thread::sleep(every.saturating_sub(ended - at));
            }
        });
        prober
    }

    pub(crate) fn tries(&self) -> Vec<Try> {
        lock(&self.tries).clone()
    }

    /// The failed requests since `since`.
    pub(crate) fn failures_since(&self, since: Instant) -> Vec<Try> {
        let mut tries = self.tries();
        tries.retain(|one| one.at >= since && one.by.is_err());
        tries
    }

    pub(crate) fn answered_since(&self, since: Instant) -> usize {
        let tries = self.tries();
        tries
            .iter()
            .filter(|one| one.at >= since && one.by.is_ok())
            .count()
    }

    /// When `master` first answered a request since `since`.
    pub(crate) fn first_of(&self, master: u8, since: Instant) -> Option<Instant> {
        let tries = self.tries();
        tries
            .iter()
            .find(|one| one.at >= since && one.by == Ok(master))
            .map(|one| one.ended)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends one request. Returns the number of the server that answers.
pub(crate) fn request(target: SocketAddr, timeout: Duration) -> std::io::Result<u8> {
    let mut stream = TcpStream::connect_timeout(&target, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(&[NAME])?;
    name(&mut stream)
}

/// Reads `m2\n` as 2.
fn name(stream: &mut TcpStream) -> std::io::Result<u8> {
    let mut line = [0; 3];
    stream.read_exact(&mut line)?;
    match line {
        [b'm', digit @ b'1'..=b'9', b'\n'] => Ok(digit - b'0'),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// A persistent connection.
#[derive(Debug)]
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default, Clone)]
struct State {
    /// When the connection ended, and the error.
    ended: Option<(Instant, ErrorKind)>,
    /// The number of echoed bytes.
    echoed: u64,
    last_echo: Option<Instant>,
}

impl Flow {
    /// Opens a connection to `master` through the virtual service, with retries until the scheduler
    /// chooses it. A busy connection sends a byte every 50 ms, an idle one none.
    pub(crate) fn open(
        netns: &Netns,
        target: SocketAddr,
        master: u8,
        busy: bool,
    ) -> anyhow::Result<Self> {
        let (mut others, mut last) = (Vec::new(), None);
        for _ in 0..60 {
            let opened = netns.run(|| {
                let mut stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.write_all(&[ECHO])?;
                let by = name(&mut stream)?;
                std::io::Result::Ok((stream, by))
            });
            let (stream, by) = match opened {
                Ok(opened) => opened,
                // No server is reachable at the moment.
                Err(error) => {
                    last = Some(error);
                    std::thread::sleep(Duration::from_millis(200));
                    continue;
                }
            };
            if by == master {
                return Self::hold(stream, busy);
            }
            // The connection stays open: a least-connection scheduler would choose its server
            // again.
            others.push(stream);
        }
        let name = &netns.name;
        bail!("{target} in `{name}`: the scheduler never chose m{master}; last error: {last:?}")
    }

    fn hold(mut stream: TcpStream, busy: bool) -> anyhow::Result<Self> {
        stream.set_nodelay(true)?;
        // An idle connection wakes up only to see whether it was dropped.
        let wait = Duration::from_millis(if busy { 50 } else { 20 });
        stream.set_read_timeout(Some(wait))?;
        let flow = Self {
            stop: Arc::default(),
            state: Arc::default(),
        };
        let (stop, state) = (Arc::clone(&flow.stop), Arc::clone(&flow.state));
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let sent = if busy && Instant::now() >= next {
                    next = Instant::now() + wait;
                    stream.write_all(b".")
                } else {
                    Ok(())
                };
                let read = sent.and_then(|()| stream.read(&mut buffer));
                let mut state = lock(&state);
                match read {
                    Ok(0) => state.ended = Some((Instant::now(), ErrorKind::UnexpectedEof)),
                    Ok(read) => {
                        state.echoed += read as u64;
                        state.last_echo = Some(Instant::now());
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => state.ended = Some((Instant::now(), error.kind())),
                }
                if state.ended.is_some() {
                    return;
                }
            }
        });
        Ok(flow)
    }

    pub(crate) fn ended(&self) -> Option<(Instant, ErrorKind)> {
        lock(&self.state).ended
    }

    /// Fails unless a busy connection receives bytes.
    pub(crate) fn works(&self) -> anyhow::Result<()> {
        let before = lock(&self.state).echoed;
        let deadline = Instant::now() + Duration::from_secs(10);
        while lock(&self.state).echoed == before {
            let ended = self.ended();
            ensure!(ended.is_none(), "the connection ended: {ended:?}");
            ensure!(
                Instant::now() < deadline,
                "the connection receives no bytes"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
