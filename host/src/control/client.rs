//! A client of the control API of a process on this machine.

use std::io;
use std::path::{Path, PathBuf};

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Most bytes of an answer. A larger one is an error.
const ANSWER_MAX_BYTES: usize = 64 << 20;

/// A client of one process, by the path of its socket. Each request has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No process accepts connections at the socket.
    #[error("{}: {source}; is `wharf serve` running with its control API at this socket? (see \
        --socket)", .socket.display())]
    Connect {
        /// The path of the socket.
        socket: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The connection broke before the answer was complete.
    #[error("the exchange with {} broke: {cause}", .socket.display())]
    Broken {
        /// The path of the socket.
        socket: PathBuf,
        /// The cause, as text.
        cause: String,
    },
    /// The API refused the request.
    #[error("{message} ({code})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stable code of the problem.
        code: String,
        /// Sentence for people.
        message: String,
    },
}

impl Client {
    /// A client of the process that listens at this socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Sends one request, and returns the body of the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Bytes, ClientError> {
        let answer = self.send(method, path, body).await?;
        if answer.status().is_success() {
            self.body(answer).await
        } else {
            Err(self.refusal(answer).await)
        }
    }

    async fn body(&self, answer: Response<Incoming>) -> Result<Bytes, ClientError> {
        let limited = http_body_util::Limited::new(answer.into_body(), ANSWER_MAX_BYTES);
        Ok(limited.collect().await.map_err(|error| self.broken(&error))?.to_bytes())
    }

    async fn refusal(&self, answer: Response<Incoming>) -> ClientError {
        let status = answer.status().as_u16();
        let body = match self.body(answer).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |key: &str| said["error"][key].as_str().unwrap_or("no-reason").to_owned();
        ClientError::Refused { status, code: text("code"), message: text("message") }
    }

    /// Reads the event stream. Calls `hear` with each piece, until `hear` returns false or the
    /// process ends.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn listen(&self, mut hear: impl FnMut(&[u8]) -> bool) -> Result<(), ClientError> {
        let answer = self.send("GET", "/v1/events", Vec::new()).await?;
        if !answer.status().is_success() {
            return Err(self.refusal(answer).await);
        }
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error))?;
            if frame.data_ref().is_some_and(|data| !hear(data)) {
                break;
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, ClientError> {
        let connect = |source| ClientError::Connect { socket: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(connect)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        tokio::spawn(connection);
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| self.broken(&error))?;
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|error| self.broken(&error))?;
        sender.send_request(request).await.map_err(|error| self.broken(&error))
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), cause: error.to_string() }
    }
}
