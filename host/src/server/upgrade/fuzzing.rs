//! Checks of what one process tells the next: see `crate::fuzzing`.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{DetachedSession, ToNew, ToOld, UpgradeClient};
use crate::net::{FdChannel, SnapshotFile, socket_number};
use crate::session::fuzzing::goes_on;

/// Messages that are sent before they are received. Sockets take so many without a reader.
const MESSAGES_MAX: usize = 16;
/// Bytes of each.
const MESSAGE_MAX_BYTES: usize = 4 << 10;

/// Longest that sending takes before the check fails instead of waiting for ever.
const SEND_MAX: Duration = Duration::from_secs(5);

/// Whether it is such a message, which then is read again from its own text.
fn survives<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let Ok(message) = serde_json::from_slice::<T>(bytes) else { return false };
    let written = serde_json::to_vec(&message).expect("JSON");
    let again: T = serde_json::from_slice(&written).expect("its own text");
    assert_eq!(serde_json::to_vec(&again).expect("JSON"), written);
    true
}

/// Each line is a message of the old process. The new process takes sockets until it hears that
/// these are all, and refuses anything else.
pub fn upgrade_offer(bytes: &[u8]) -> bool {
    let lines = bytes.split(|&byte| byte == b'\n').filter(|handle| !handle.is_empty());
    let lines: Vec<_> = lines
        .take(MESSAGES_MAX)
        .map(|handle| &handle[..handle.len().min(MESSAGE_MAX_BYTES)])
        .collect();
    let all = lines.iter().filter(|handle| survives::<ToNew>(handle)).count();
    let (mut near, far) = FdChannel::pair().expect("descriptors");
    near.set_timeout(SEND_MAX).expect("it is not zero");
    let nothing = File::open("/dev/null").expect("it is there");
    for handle in &lines {
        near.send(handle, &[], Some(nothing.as_fd())).expect("room");
    }
    drop(near);
    match UpgradeClient::receive(far) {
        Ok(taken) => assert!(taken.listeners.len() + taken.endpoints.len() < lines.len()),
        Err(why) => assert!(!why.is_empty()),
    }
    all == lines.len() && all > 0
}

/// A message of the new process.
pub fn upgrade_answer(bytes: &[u8]) -> bool {
    survives::<ToOld>(bytes)
}

/// What a snapshot file says, and behind a NUL what it carries. The session in it is found with its
/// connection, has all of its bytes, and can go on. A second one with its number is not taken.
pub fn detached_session(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let body = bytes.get(end + 1..).unwrap_or_default();
    let (one, other) = UnixStream::pair().expect("descriptors");
    let mut descriptors = Vec::new();
    for socket in [one, other] {
        let mut head = bytes[..end].to_vec();
        // Seeds cannot know the number of the socket.
        if let Ok(mut said) = serde_json::from_slice::<Value>(&head)
            && said.get("connection") == Some(&Value::from(0))
        {
            said["connection"] = socket_number(&socket).into();
            head = said.to_string().into_bytes();
        }
        let Ok(snapshot) = SnapshotFile::write(&head, &[body]) else { return false };
        let snapshot = snapshot.as_fd().try_clone_to_owned().expect("descriptors");
        descriptors.extend([snapshot, socket.into()]);
    }
    let (mut whole, strays) = DetachedSession::among(descriptors);
    let Some(session) = whole.pop() else {
        assert_eq!(strays, 4);
        return false;
    };
    assert_eq!((whole.len(), strays), (0, 2));
    assert!(session.meta.id <= session.ids_above, "a later session may get its number");
    goes_on(&session.meta);
    match session.unpack() {
        Ok((_, restored)) => {
            assert_eq!([restored.state, restored.queued].concat(), body);
            true
        }
        Err(why) => {
            assert_eq!(why, "no-state");
            false
        }
    }
}
