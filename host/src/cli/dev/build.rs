//! Runs a plugin's build for `wharf dev`, and shows its output as it arrives.

use std::cell::RefCell;
use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;

use super::output::{LINE_MAX_BYTES, Shown};
use crate::plugin::Manifest;

/// Most lines that wait to be shown. A build that writes more waits.
const LINES_WAITING_MAX: usize = 64;
/// Time that processes which a finished build left running have to close its output.
const CLOSING_MAX: Duration = Duration::from_secs(1);

/// Runs the build to its end. Dropping the future ends the build.
///
/// # Errors
/// [`BuildError`](crate::plugin::BuildError), or the process has no descriptors left.
pub(super) async fn run(manifest: &Manifest) -> Result<()> {
    let (output, input) = std::io::pipe()?;
    let (lines, mut said) = mpsc::channel(LINES_WAITING_MAX);
    let line = RefCell::default();
    let mut reading = pin!(read(Receiver::from_owned_fd(output.into())?, &line, lines));
    let mut building = pin!(manifest.run_build_into(Some(input)));
    let (mut shown, mut is_open) = (Shown::default(), true);
    let built = loop {
        tokio::select! {
            biased;
            Some(line) = said.recv() => shown.line(&line),
            () = &mut reading, if is_open => is_open = false,
            built = &mut building => break built,
        }
    };
    let rest = async {
        loop {
            tokio::select! {
                biased;
                line = said.recv() => match line {
                    Some(line) => shown.line(&line),
                    None => return,
                },
                () = &mut reading, if is_open => is_open = false,
            }
        }
    };
    // Processes that the build has started may hold its output open for ever.
    let _ = tokio::time::timeout(CLOSING_MAX, rest).await;
    if !line.borrow().is_empty() {
        shown.line(&line.borrow());
    }
    shown.end();
    Ok(built?)
}

/// Cuts output into lines of at most [`LINE_MAX_BYTES`]. `line` holds the last, incomplete line.
async fn read(
    mut stream: impl AsyncRead + Unpin,
    line: &RefCell<Vec<u8>>,
    lines: mpsc::Sender<Vec<u8>>,
) {
    let mut buffer = [0; LINE_MAX_BYTES];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        for &byte in &buffer[..count] {
            let whole = push(&mut line.borrow_mut(), byte);
            if let Some(whole) = whole
                && lines.send(whole).await.is_err()
            {
                return;
            }
        }
    }
}

fn push(line: &mut Vec<u8>, byte: u8) -> Option<Vec<u8>> {
    line.push(byte);
    (byte == b'\n' || line.len() >= LINE_MAX_BYTES).then(|| std::mem::take(line))
}
