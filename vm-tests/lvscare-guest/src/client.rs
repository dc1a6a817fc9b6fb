//! Clients of a virtual server: one that asks again and again, and ones that hold a connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use crate::apiserver::{ECHO, WHO};
use crate::netns::Netns;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_millis(1500);

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Try {
    pub(crate) at: Instant,
    pub(crate) ended: Instant,
    /// Number of the master that answered.
    pub(crate) by: Result<u8, ErrorKind>,
}

/// Makes a new connection every so often, until dropped.
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
                let by = who(target, PATIENCE).map_err(|error| error.kind());
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

    /// Of requests made after `since`.
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

    /// The first answer of `master` to a request made after `since`.
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

/// One request: who answers?
pub(crate) fn who(target: SocketAddr, patience: Duration) -> std::io::Result<u8> {
    let mut stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(&[WHO])?;
    name(&mut stream)
}

/// `m2\n`: 2.
fn name(stream: &mut TcpStream) -> std::io::Result<u8> {
    let mut line = [0; 3];
    stream.read_exact(&mut line)?;
    match line {
        [b'm', digit @ b'1'..=b'9', b'\n'] => Ok(digit - b'0'),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// A held connection.
#[derive(Debug)]
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default, Clone)]
struct State {
    /// When it broke, and how.
    ended: Option<(Instant, ErrorKind)>,
    /// Bytes that came back.
    echoed: u64,
    last_echo: Option<Instant>,
}

impl Flow {
    /// To this master, through the virtual server; tried until the scheduler chooses it. A busy one sends a byte every
    /// 50 ms, an idle one waits.
    pub(crate) fn open(
        netns: &Netns,
        target: SocketAddr,
        master: u8,
        busy: bool,
    ) -> anyhow::Result<Self> {
        let (mut others, mut last) = (Vec::new(), None);
        for _ in 0..60 {
            let opened = netns.run(|| {
                let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(&[ECHO])?;
                let by = name(&mut stream)?;
                std::io::Result::Ok((stream, by))
            });
            let (stream, by) = match opened {
                Ok(opened) => opened,
                // Nobody is led anywhere at the moment.
                Err(error) => {
                    last = Some(error);
                    std::thread::sleep(Duration::from_millis(200));
                    continue;
                }
            };
            if by == master {
                return Self::hold(stream, busy);
            }
            // Held until then: least-connection schedulers would choose the same again.
            others.push(stream);
        }
        let name = &netns.name;
        bail!("{target} in `{name}`: never led to m{master}; last error: {last:?}")
    }

    fn hold(mut stream: TcpStream, busy: bool) -> anyhow::Result<Self> {
        stream.set_nodelay(true)?;
        // An idle one wakes up only to see whether it is still wanted.
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

    /// A busy one: bytes come back now.
    pub(crate) fn works(&self) -> anyhow::Result<()> {
        let before = lock(&self.state).echoed;
        let deadline = Instant::now() + Duration::from_secs(10);
        while lock(&self.state).echoed == before {
            let ended = self.ended();
            ensure!(ended.is_none(), "the flow ended: {ended:?}");
            ensure!(Instant::now() < deadline, "nothing comes back on the flow");
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
