//! Requests to a control socket, with one connection for each.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Time that an answer may take. Calls that wait for sessions take up to a minute.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(90);

/// A control socket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api(Arc<Path>);

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, without the head.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON. Null if the body is no JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

impl Api {
    /// The API at this socket. Does not connect yet.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        Self(socket.into())
    }

    /// Sends a request and reads the whole answer. Dropping the future closes the connection.
    ///
    /// # Errors
    /// The connection failed, or no whole answer came within 90 s.
    pub async fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
        let told = || format!("{method} {path}");
        let asked = async {
            let mut stream = self.send(method, path, body).await?;
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await?;
            parse(all)
        };
        match tokio::time::timeout(ANSWER_TIME_MAX, asked).await {
            Ok(answer) => answer.with_context(told),
            Err(_) => bail!("{}: no answer within {ANSWER_TIME_MAX:?}", told()),
        }
    }

    /// Sends a request, and returns the connection, from which the caller reads the answer. For
    /// streams.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send(&self, method: &str, path: &str, body: &[u8]) -> Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.0).await?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        Ok(stream)
    }
}

fn parse(all: Vec<u8>) -> Result<Answer> {
    let end =
        all.windows(4).position(|four| four == b"\r\n\r\n").context("an answer without a head")?;
    let head = std::str::from_utf8(&all[..end])?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let body = all[end + 4..].to_vec();
    if length.is_some_and(|length| length != body.len()) {
        bail!("{} bytes of a body of {length:?}", body.len());
    }
    Ok(Answer { status, body })
}
