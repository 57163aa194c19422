//! The kernel's events about block devices, by netlink.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::unix::AsyncFd;

/// The multicast group to which the kernel itself sends, before udev has seen the event (`MONITOR_GROUP_KERNEL` of systemd).
const KERNEL: u32 = 1;
/// What an event is at most: a path and an environment of 2 KiB (`UEVENT_BUFFER_SIZE` of linux/kobject.h).
const BUFFER: usize = 8192;

/// A socket that gets these events.
#[derive(Debug)]
pub struct BlockEvents(AsyncFd<OwnedFd>);

impl BlockEvents {
    /// Begins to listen. Errors: a service that may not open netlink sockets (`RestrictAddressFamilies=`).
    pub fn listen() -> io::Result<BlockEvents> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, SockProtocol::NetlinkKObjectUEvent)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL))?;
        // SAFETY: an OwnedFd keeps its descriptor open, and the same, until it is dropped, which the AsyncFd does.
        Ok(BlockEvents(unsafe { AsyncFd::register(socket) }?))
    }

    /// Waits for the next event about a block device, or for the loss of some.
    pub async fn next(&self) -> io::Result<()> {
        let mut event = [0; BUFFER];
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|socket| Ok(recv(socket.as_raw_fd(), &mut event, MsgFlags::empty())?)) {
                Ok(Ok(length)) if is_about_block(&event[..length]) => return Ok(()),
                // More came than the socket holds.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                // Another device's, or none after all.
                Ok(Ok(_)) | Err(_) => {}
            }
        }
    }
}

/// Whether an event, `ACTION@PATH` and an environment, each ended by a null byte, is about a block device.
fn is_about_block(event: &[u8]) -> bool {
    event.split(|byte| *byte == 0).any(|field| field == b"SUBSYSTEM=block")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_about_block_devices_are_told_from_others() {
        let event = |subsystem: &str| format!("add@/devices/x\0ACTION=add\0SUBSYSTEM={subsystem}\0SEQNUM=7\0");
        assert!(is_about_block(event("block").as_bytes()));
        for other in ["net", "blocking", "nvme"] {
            assert!(!is_about_block(event(other).as_bytes()), "{other}");
        }
        assert!(!is_about_block(b"libudev\0"));
    }
}
