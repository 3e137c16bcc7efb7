//! The check of what an old process offers: see `crate::fuzzing`.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use super::UpgradeClient;
use crate::handover::ToNew;
use crate::handover::fuzzing::survives;
use crate::net::FdChannel;

/// Messages that are sent before they are received. Sockets take so many without a reader.
const MESSAGES_MAX: usize = 16;
/// Bytes of each.
const MESSAGE_MAX_BYTES: usize = 4 << 10;

/// Longest that sending takes before the check fails instead of waiting for ever.
const SEND_MAX: Duration = Duration::from_secs(5);

/// Each line is a message of the old process. The new process takes sockets until it hears that
/// these are all, and refuses anything else.
pub fn upgrade_offer(bytes: &[u8]) -> bool {
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let lines: Vec<_> =
        lines.take(MESSAGES_MAX).map(|line| &line[..line.len().min(MESSAGE_MAX_BYTES)]).collect();
    let all = lines.iter().filter(|line| survives::<ToNew>(line)).count();
    let (mut near, far) = FdChannel::pair().expect("descriptors");
    near.set_timeout(SEND_MAX).expect("it is not zero");
    let nothing = File::open("/dev/null").expect("it is there");
    for line in &lines {
        near.send(line, &[], Some(nothing.as_fd())).expect("room");
    }
    drop(near);
    match UpgradeClient::receive(far) {
        Ok(taken) => assert!(taken.listeners.len() + taken.endpoints.len() < lines.len()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    all == lines.len() && all > 0
}
