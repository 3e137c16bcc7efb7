//! Checks of what one process tells the next: see `crate::fuzzing`.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{DetachedSession, ToOld};
use crate::net::{SnapshotFile, socket_number};
use crate::session::fuzzing::goes_on;

/// Whether it is such a message, which then is read again from its own text.
pub(crate) fn survives<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let Ok(message) = serde_json::from_slice::<T>(bytes) else { return false };
    let written = serde_json::to_vec(&message).expect("JSON");
    let again: T = serde_json::from_slice(&written).expect("its own text");
    assert_eq!(serde_json::to_vec(&again).expect("JSON"), written);
    true
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
            assert_eq!(why.to_string(), "no-state");
            false
        }
    }
}
