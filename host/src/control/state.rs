//! The state that all requests of the API share.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, watch};

use super::answer::Problem;
use super::reload::Reload;
use super::upgrade::Upgrade;
use super::waiting::{Class, Place, Waiting};
use crate::locks::lock;
use crate::server::ServerHandle;
use crate::servers::Servers;
use crate::telemetry::{Bucket, ControlRequest};
use crate::upgrade::ControlEndpoint;
use crate::work::HOST;

/// Most event streams that are open at once.
const STREAMS_MAX: usize = 16;
/// Lines of the log each second for requests that change something, and for refused ones.
const REQUESTS_LOGGED_PER_SECOND: u32 = 20;

/// Duplicate descriptors of the API's sockets, for a new process.
pub(super) type EndpointSockets = Vec<(ControlEndpoint, OwnedFd)>;

/// Whether this process still serves the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Not,
    /// This process no longer serves, and no other process has the sockets.
    Unowned,
    ToAnother,
}

/// The state that all requests of the API share.
pub(super) struct Shared {
    pub(super) servers: Arc<Servers>,
    pub(super) reload: Reload,
    pub(super) upgrade: Option<Upgrade>,
    endpoints: Mutex<EndpointSockets>,
    /// What happens to the API's sockets once another process serves.
    left: watch::Sender<Left>,
    /// Set from the start of an upgrade, and cleared if it fails. Tells the API's thread to answer
    /// open requests before it ends.
    leaving: Arc<AtomicBool>,
    pub(super) streams: Arc<Semaphore>,
    /// Places for calls that wait.
    pub(super) waiting: Arc<Waiting>,
    pub(super) request_lines: Bucket,
}

impl Shared {
    pub(super) fn new(
        servers: Arc<Servers>,
        (reload, upgrade): (Reload, Option<Upgrade>),
        endpoints: EndpointSockets,
        leaving: Arc<AtomicBool>,
    ) -> Arc<Self> {
        let (streams, request_lines) =
            (Arc::new(Semaphore::new(STREAMS_MAX)), Bucket::new(REQUESTS_LOGGED_PER_SECOND));
        let waiting = Arc::default();
        let (endpoints, left) = (Mutex::new(endpoints), watch::Sender::new(Left::Not));
        Arc::new(Self {
            servers,
            reload,
            upgrade,
            endpoints,
            left,
            leaving,
            streams,
            waiting,
            request_lines,
        })
    }

    /// Duplicates of the API's sockets, for another process.
    pub(super) fn endpoints(&self) -> io::Result<Vec<(ControlEndpoint, OwnedFd)>> {
        let endpoints = lock(&self.endpoints);
        endpoints
            .iter()
            .map(|(endpoint, socket)| Ok((endpoint.clone(), socket.try_clone()?)))
            .collect()
    }

    /// Replaces the descriptor of a control endpoint that was opened again. Without a descriptor,
    /// a new process opens a socket of its own there.
    pub(super) fn reopened(&self, endpoint: &ControlEndpoint, socket: Option<OwnedFd>) {
        let mut endpoints = lock(&self.endpoints);
        endpoints.retain(|(other, _)| other != endpoint);
        endpoints.extend(socket.map(|socket| (endpoint.clone(), socket)));
    }

    /// Marks that this request's upgrade may end the process while the request is answered. Returns
    /// false if another upgrade is under way.
    pub(super) fn begins_to_leave(&self) -> bool {
        !self.leaving.swap(true, Ordering::Relaxed)
    }

    /// Clears the mark of [`Self::begins_to_leave`]: the upgrade failed and the process goes on.
    pub(super) fn stays(&self) {
        self.leaving.store(false, Ordering::Relaxed);
    }

    /// Stops the API: this process accepts no further connections. The socket's file is removed,
    /// unless another process has it now (`to_another`).
    pub(super) fn leave(&self, to_another: bool) {
        self.left.send_replace(if to_another { Left::ToAnother } else { Left::Unowned });
    }

    /// Waits for [`Self::leave`], and returns its `to_another`.
    pub(super) async fn left(&self) -> bool {
        let mut left = self.left.subscribe();
        // This value owns the sender, so the wait does not fail.
        left.wait_for(|left| *left != Left::Not).await.is_ok_and(|left| *left == Left::ToAnother)
    }

    /// Logs a request that was refused for its caller or its origin.
    pub(super) fn refused(&self, method: &str, path: &str, status: u16) {
        ControlRequest { method, path, status }.emit(&self.request_lines);
    }

    /// Takes a place for a call about this server that waits.
    pub(super) fn may_wait(&self, server: &ServerHandle, class: Class) -> Result<Place, Problem> {
        self.waiting.enter(server.tenant(), class)
    }

    /// Takes a place for a call about the whole process that waits.
    pub(super) fn may_change_all(&self) -> Result<Place, Problem> {
        self.waiting.enter(HOST.into(), Class::Change)
    }
}
