//! Detached sessions: the connection, and a snapshot file with everything else. Neither is trusted,
//! because any process that can write to the descriptor store may have put them there.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::error::{LeaveError, RestoreError};
use super::messages::ToNew;
use super::packed::PackedSession;
use crate::net::{SnapshotFile, socket_number};
use crate::session::{SessionMeta, SessionSnapshot};

/// Head of a detached session's snapshot file.
#[derive(Debug, Serialize, Deserialize)]
struct SnapshotHead {
    /// Number of the connection's socket.
    connection: u64,
    /// Time when the file was written, in milliseconds since the machine started.
    written_ms: u64,
    /// Sessions that begin later have numbers above this one.
    ids_above: u64,
    /// The session.
    session: ToNew,
}

/// A detached session, which waits for a process to attach it.
#[derive(Debug)]
pub struct DetachedSession {
    server: String,
    pub(crate) name: Option<String>,
    pub(crate) ids_above: u64,
    pub(crate) meta: Box<SessionMeta>,
    written_ms: u64,
    state_bytes: usize,
    file: SnapshotFile,
    socket: OwnedFd,
}

/// Writes the snapshot file of a session that leaves. Returns the file, the connection, and the
/// sender of the verdict.
pub(super) fn write(
    packed: PackedSession,
) -> Result<(SnapshotFile, OwnedFd, oneshot::Sender<bool>), LeaveError> {
    let PackedSession { server, name, ids_above, snapshot, verdict, .. } = packed;
    let SessionSnapshot { meta, state, queued, socket } = snapshot;
    let connection = socket_number(&socket).ok_or(LeaveError::NoDescriptor)?;
    let session = ToNew::Session {
        server,
        name,
        not_on: None,
        state_bytes: state.len(),
        meta: Box::new(meta),
    };
    let head = SnapshotHead { connection, written_ms: now_ms(), ids_above, session };
    let head = serde_json::to_vec(&head).map_err(io::Error::from)?;
    let file =
        SnapshotFile::write(&head, &[&state, &queued]).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => LeaveError::TooLarge,
            _ => LeaveError::NoDescriptor,
        })?;
    Ok((file, socket, verdict))
}

/// Upper bound of session numbers. Numbers never come this far, so a file with a higher one is not
/// this host's.
const IDS_MAX: u64 = u64::MAX / 2;

impl DetachedSession {
    /// Returns the complete sessions among these descriptors, and the number of descriptors that
    /// belong to none. Those are closed.
    #[must_use]
    pub fn among(descriptors: Vec<OwnedFd>) -> (Vec<Self>, usize) {
        let (mut files, mut sockets) = (Vec::new(), HashMap::new());
        let mut strays = 0;
        for descriptor in descriptors {
            match SnapshotFile::open(descriptor) {
                Ok(file) => files.push(file),
                Err(other) => match socket_number(&other) {
                    Some(number) => drop(sockets.insert(number, other)),
                    None => strays += 1,
                },
            }
        }
        let (mut whole, mut numbers) = (Vec::<Self>::new(), HashSet::new());
        for file in files {
            match Self::of(file, &mut sockets) {
                Some(session) if numbers.insert((session.server.clone(), session.meta.id)) => {
                    whole.push(session);
                }
                // Another session has its number; its snapshot and its connection are closed.
                Some(_) => strays += 2,
                None => strays += 1,
            }
        }
        (whole, strays + sockets.len())
    }

    fn of(file: SnapshotFile, sockets: &mut HashMap<u64, OwnedFd>) -> Option<Self> {
        let SnapshotHead { connection, written_ms, ids_above, session } =
            serde_json::from_slice(&file.head().ok()?).ok()?;
        let ToNew::Session { server, name, state_bytes, meta, .. } = session else {
            return None;
        };
        // A later session would get the number of this one.
        if ids_above > IDS_MAX || meta.id > ids_above {
            return None;
        }
        let socket = sockets.remove(&connection)?;
        Some(Self { server, name, ids_above, meta, written_ms, state_bytes, file, socket })
    }

    /// Name of the session's server.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Unpacks the session's name and snapshot.
    pub(crate) fn unpack(self) -> Result<(Option<String>, SessionSnapshot), RestoreError> {
        let Self { name, meta, written_ms, state_bytes, file, socket, .. } = self;
        let mut state = file.body()?;
        // The descriptor store may still have the same memory, if it was not removed there. So the
        // file is made void, and no process continues the session again.
        file.void()?;
        if state_bytes > state.len() {
            return Err(RestoreError::NoState);
        }
        let queued = state.split_off(state_bytes);
        let meta = meta.aged(Duration::from_millis(now_ms().saturating_sub(written_ms)));
        Ok((name, SessionSnapshot { meta, state, queued, socket }))
    }
}

/// Milliseconds since the machine started, which are the same in every process.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000).saturating_add(nanoseconds.unwrap_or(0) / 1_000_000)
}
