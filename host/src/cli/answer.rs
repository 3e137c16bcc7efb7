//! Sends a request to the control API and prints its answer, for people or for programs.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use serde_json::{Value, json};

use super::request::{Ask, at};
use super::text::printable;
use super::{progress, tables};
use crate::control::{Client, ClientError, default_socket};

pub(super) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Sends one request and prints the answer. `code` maps a successful answer to an exit code.
pub(super) fn send(
    socket: Option<PathBuf>,
    ask: Ask,
    json: bool,
    code: impl Fn(&Value) -> u8,
) -> ExitCode {
    send_by(socket, json, code, async |client| client.ask(ask.method, &ask.path, ask.body).await)
}

/// Sends a request about the versions of a server's plugin. Without `json`, shows the progress of
/// the swap meanwhile.
pub(super) fn send_and_watch(
    socket: Option<PathBuf>,
    (server, ask): (&str, Ask),
    json: bool,
    code: impl Fn(&Value) -> u8,
) -> ExitCode {
    let path = at(server, "/plugin/swap");
    send_by(socket, json, code, async |client| match json {
        true => client.ask(ask.method, &ask.path, ask.body).await,
        false => progress::watched(client, ask, &path).await,
    })
}

fn send_by(
    socket: Option<PathBuf>,
    json: bool,
    code: impl Fn(&Value) -> u8,
    ask: impl AsyncFnOnce(&Client) -> Result<Bytes, ClientError>,
) -> ExitCode {
    let client = Client::new(&socket.unwrap_or_else(default_socket));
    match runtime().map(|runtime| runtime.block_on(ask(&client))) {
        Ok(Ok(answer)) => print(&answer, json, code),
        Ok(Err(error)) if json => explain_as_json(&error),
        Ok(Err(error)) => explain(&error),
        Err(error) => fail(&error, 1),
    }
}

fn print(answer: &[u8], json: bool, code: impl Fn(&Value) -> u8) -> ExitCode {
    let text = String::from_utf8_lossy(answer);
    let value = serde_json::from_slice::<Value>(answer).ok();
    let code = value.as_ref().map_or(0, code);
    let shown = match &value {
        Some(value) if !json => tables::render(value),
        _ => text.into_owned(),
    };
    let shown = if json { shown } else { printable(&shown) };
    // A closed standard output is no error of this program.
    let _ = writeln!(std::io::stdout(), "{}", shown.trim_end());
    ExitCode::from(code)
}

/// Prints a refusal of the API as JSON, for programs. Other errors are printed for people.
fn explain_as_json(error: &ClientError) -> ExitCode {
    let ClientError::Refused { code, message, .. } = error else { return explain(error) };
    let _ =
        writeln!(std::io::stdout(), "{}", json!({ "error": { "code": code, "message": message } }));
    code_of(error)
}

pub(super) fn explain(error: &ClientError) -> ExitCode {
    eprintln!("wharf: {}", printable(&error.to_string()));
    code_of(error)
}

fn code_of(error: &ClientError) -> ExitCode {
    ExitCode::from(match error {
        ClientError::Connect { .. } | ClientError::Broken { .. } => 3,
        ClientError::Refused { status: 400 | 413, .. } => 2,
        ClientError::Refused { status: 404, .. } => 4,
        ClientError::Refused { status: 409, .. } => 5,
        ClientError::Refused { .. } => 1,
    })
}

pub(super) fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("wharf: {}", printable(&error.to_string()));
    ExitCode::from(code)
}
