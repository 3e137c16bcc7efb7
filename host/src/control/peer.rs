//! Whoever sent a request: whether they are there still.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The other end of a connection. Bytes that it sent ahead hide from the protocol that it has gone;
/// this sees it.
#[derive(Debug, Clone)]
pub(super) struct ApiPeer(Option<Arc<OwnedFd>>);

impl ApiPeer {
    /// Without a descriptor to spare nobody is ever seen to go.
    pub(super) fn new(stream: &impl AsFd) -> Self {
        Self(stream.as_fd().try_clone_to_owned().ok().map(Arc::new))
    }

    /// Whether it has closed its side.
    pub(super) fn is_gone(&self) -> bool {
        let Some(stream) = &self.0 else { return false };
        let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        let mut asked = [PollFd::new(stream, gone)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&at_once)).is_ok() && asked[0].revents().intersects(gone)
    }
}
