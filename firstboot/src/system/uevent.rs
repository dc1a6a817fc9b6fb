//! Waits for disks and network cards: kernel events, and udev's queue.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// Receives an event for every new disk, network card and medium from its creation on.
#[derive(Debug)]
pub struct DeviceEvents(std::os::fd::OwnedFd);

impl DeviceEvents {
    pub fn listen() -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )
        .context("opening the kernel event socket")?;
        // Group 1 has the kernel's events; the device node exists before its event.
        bind(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            &NetlinkAddr::new(0, 1),
        )
        .context("subscribing to kernel events")?;
        Ok(Self(socket))
    }

    /// Blocks until a device is added or changed.
    pub fn wait(&self) -> Result<()> {
        while !self.poll(PollTimeout::NONE)? {}
        Ok(())
    }

    /// As [`wait`](Self::wait), but at most until `end`; `false` without an event.
    pub fn wait_until(&self, end: Instant) -> Result<bool> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            if self.poll(PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))? {
                return Ok(true);
            }
        }
    }

    /// Waits for one event. Returns whether it is of a disk or a card.
    fn poll(&self, timeout: PollTimeout) -> Result<bool> {
        match poll(
            &mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(0) | Err(Errno::EINTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error).context("waiting for kernel events"),
        }
        let mut buffer = [0; 8192];
        match recv(
            std::os::fd::AsRawFd::as_raw_fd(&self.0),
            &mut buffer,
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(length) => Ok(is_new_device(&buffer[..length])),
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(false),
            // The socket overflowed: one of the lost events may be of a disk or a card.
            Err(Errno::ENOBUFS) => Ok(true),
            Err(error) => Err(error).context("reading kernel events"),
        }
    }
}

/// An event is `ACTION@DEVPATH` and `KEY=value` pairs, each with a final NUL.
fn is_new_device(event: &[u8]) -> bool {
    let mut parts = event.split(|byte| *byte == 0);
    let head = parts.next().unwrap_or_default();
    (head.starts_with(b"add@") || head.starts_with(b"change@"))
        && parts.any(|part| part == b"SUBSYSTEM=block" || part == b"SUBSYSTEM=net")
}

/// Waits until udev has handled every device of the boot. `false` after the deadline.
///
/// `/run/udev/queue` exists while udev is busy.
pub fn settle(deadline: Duration) -> Result<bool> {
    let (queue, end) = (Path::new("/run/udev/queue"), Instant::now() + deadline);
    let inotify =
        Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).context("opening inotify")?;
    if inotify
        .add_watch("/run/udev", AddWatchFlags::IN_DELETE)
        .is_err()
    {
        return Ok(true); // udev does not run
    }
    while queue.exists() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(
            &mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for udev"),
        }
        let _ = inotify.read_events();
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_disks_and_cards_count() {
        assert!(is_new_device(
            b"add@/devices/x/block/vdb\0ACTION=add\0SUBSYSTEM=block\0"
        ));
        assert!(is_new_device(
            b"change@/devices/x/block/sr0\0SUBSYSTEM=block\0DISK_MEDIA_CHANGE=1\0"
        ));
        assert!(!is_new_device(
            b"remove@/devices/x/block/vdb\0SUBSYSTEM=block\0"
        ));
        assert!(is_new_device(b"add@/devices/x/net/eth0\0SUBSYSTEM=net\0"));
        assert!(!is_new_device(
            b"add@/devices/x/input/input1\0SUBSYSTEM=input\0"
        ));
        assert!(!is_new_device(b""));
    }
}
