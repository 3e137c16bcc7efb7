//! The sender of a request, and whether the sender is still connected.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The other end of a connection of the API. Bytes that the peer sent ahead hide the end of its
/// connection from the HTTP library; this type sees it.
#[derive(Debug, Clone)]
pub(super) struct ApiPeer(Option<Arc<OwnedFd>>);

impl ApiPeer {
    /// Duplicates the stream's descriptor. If the process has none left, the peer counts as
    /// connected for good.
    pub(super) fn new(stream: &impl AsFd) -> Self {
        Self(stream.as_fd().try_clone_to_owned().ok().map(Arc::new))
    }

    /// Whether the peer has closed its side, or the connection has failed. Never waits.
    pub(super) fn is_gone(&self) -> bool {
        let Some(stream) = &self.0 else { return false };
        let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        let mut asked = [PollFd::new(stream, gone)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&at_once)).is_ok() && asked[0].revents().intersects(gone)
    }
}
