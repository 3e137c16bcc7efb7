//! Runs a plugin's build for `wharf dev`, and shows what it says as it comes.

use std::io::IsTerminal;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use super::output::{LINE_MAX_BYTES, Shown};
use crate::plugin::{Build, BuildError};

/// Lines that wait to be shown; a build that says more waits.
const LINES_WAITING_MAX: usize = 64;
/// What a build that has ended may leave running has so long to close its output.
const CLOSING_MAX: Duration = Duration::from_secs(1);

/// Runs the build to its end. Dropping the future kills it.
///
/// # Errors
/// [`BuildError`].
pub(super) async fn run(build: &Build, folder: &Path) -> Result<()> {
    let (own, within) = (build.clone(), folder.to_owned());
    let command = tokio::task::spawn_blocking(move || own.prepared(&within)).await?;
    let Some(mut command) = command else { return Ok(()) };
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if std::io::stderr().is_terminal() {
        // It cannot see the terminal any more.
        command.env("CARGO_TERM_COLOR", "always");
    }
    let words = build.command.join(" ");
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().map_err(|source| {
        let command = words.clone();
        BuildError::NotRun { command, source }
    })?;
    let (lines, mut said) = mpsc::channel(LINES_WAITING_MAX);
    let readers = [
        child.stdout.take().map(|stream| tokio::spawn(read(stream, lines.clone()))),
        child.stderr.take().map(|stream| tokio::spawn(read(stream, lines.clone()))),
    ];
    drop(lines);
    let mut shown = Shown::default();
    let status = loop {
        tokio::select! {
            biased;
            Some(line) = said.recv() => shown.line(&line),
            status = child.wait() => break status,
        }
    };
    let rest = async {
        while let Some(line) = said.recv().await {
            shown.line(&line);
        }
    };
    // Whatever it has started may hold its output for ever.
    let _ = tokio::time::timeout(CLOSING_MAX, rest).await;
    readers.into_iter().flatten().for_each(|reader| reader.abort());
    shown.end();
    let status = status?;
    if status.success() { Ok(()) } else { Err(BuildError::Failed { command: words, status }.into()) }
}

/// Cuts what comes into lines, none of them longer than may be.
async fn read(mut stream: impl AsyncRead + Unpin, lines: mpsc::Sender<Vec<u8>>) {
    let (mut buffer, mut line) = ([0; LINE_MAX_BYTES], Vec::new());
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        for &byte in &buffer[..count] {
            line.push(byte);
            if (byte == b'\n' || line.len() >= LINE_MAX_BYTES) && lines.send(std::mem::take(&mut line)).await.is_err() {
                return;
            }
        }
    }
    if !line.is_empty() {
        // Nobody may be there any more to show it.
        let _ = lines.send(line).await;
    }
}
