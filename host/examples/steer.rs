//! Steers a running server from code: limits, suspension, and single sessions.
//!
//! ```text
//! cargo run -p wharf -- build plugins/echo
//! cargo run -p wharf --example steer -- plugins/echo
//! ```
//!
//! Each line of standard input is a command, `help` prints them. The server stops when standard
//! input ends.

use std::error::Error;
use std::io::BufRead;
use std::time::Duration;

use wharf::admission::Change;
use wharf::event::Priority;
use wharf::plugin::{Grant, Grants};
use wharf::server::{NewConnections, Server, ServerEnding, ServerHandle};

/// How long sessions may take to end when the server stops.
const GRACE: Duration = Duration::from_secs(5);
/// Sessions that `list` prints.
const LIST_MAX: usize = 100;
const HELP: &str = "list, throttle CLIENTS, suspend, drain, resume, send ID TEXT, class ID CLASS, \
                    end ID or abort ID";

fn main() -> Result<(), Box<dyn Error>> {
    let plugin = std::env::args().nth(1).unwrap_or_else(|| "plugins/echo".into());
    let grants: Grants = [Grant::Stdio].into_iter().collect();
    let server = Server::builder().plugin(plugin).grants(grants).local_host("127.0.0.1").start()?;
    println!("listening on {}", server.address());

    for line in std::io::stdin().lock().lines() {
        match obey(&server, line?.trim()) {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("error: {error}"),
        }
    }
    server.stop_blocking(GRACE);
    println!("stopped");
    Ok(())
}

fn obey(server: &ServerHandle, command: &str) -> Result<String, Box<dyn Error>> {
    let words: Vec<_> = command.splitn(3, ' ').collect();
    match words[..] {
        ["list"] => Ok(list(server)),
        ["throttle", clients] => throttle(server, clients.parse()?),
        ["suspend"] => suspend(server, None),
        ["drain"] => suspend(server, Some(ServerEnding::Drain(GRACE))),
        ["resume"] => resume(server),
        ["send", id, text] => send(server, id.parse()?, text),
        ["class", id, class] => assign(server, id.parse()?, class.parse()?),
        ["end", id] => Ok(found(server.disconnect(id.parse()?), "ended")),
        ["abort", id] => Ok(found(server.abort(id.parse()?), "aborted")),
        _ => Ok(HELP.into()),
    }
}

/// One line a session. Sessions that end are not listed.
fn list(server: &ServerHandle) -> String {
    let mut text = String::new();
    for session in server.sessions(0, LIST_MAX) {
        let (info, stats) = (session.info, session.stats);
        text += &format!(
            "session {} of {}: {} events, {} bytes in, {} bytes out, class {}\n",
            info.id, info.peer, stats.events, stats.bytes_in, stats.bytes_out, stats.priority
        );
    }
    text + &format!("{} sessions, {}", server.session_count(), server.status().name())
}

/// A limit applies to new connections. Sessions that run stay.
fn throttle(server: &ServerHandle, clients: usize) -> Result<String, Box<dyn Error>> {
    let before = server.set_throttle(Change { max_clients: Some(clients), ..Change::default() })?;
    Ok(format!("max_clients was {}, is {clients}", before.max_clients))
}

/// New connections are closed at once until `resume`. `None` leaves live sessions alone. When the
/// call returns, the server accepts no connection any more.
fn suspend(server: &ServerHandle, live: Option<ServerEnding>) -> Result<String, Box<dyn Error>> {
    server.host().runtime().block_on(server.suspend(NewConnections::Reject, live))?;
    Ok(server.status().name().into())
}

/// Connections that waited in the backlog come first.
fn resume(server: &ServerHandle) -> Result<String, Box<dyn Error>> {
    server.resume()?;
    Ok(server.status().name().into())
}

/// Queues bytes for the client of one session, beside what its plugin writes.
fn send(server: &ServerHandle, id: u64, text: &str) -> Result<String, Box<dyn Error>> {
    server.send_to(id, text.as_bytes()).map_err(|error| format!("not sent: {error:?}"))?;
    Ok("sent".into())
}

/// The class applies from the session's next event on.
fn assign(server: &ServerHandle, id: u64, class: Priority) -> Result<String, Box<dyn Error>> {
    let before = server.assign(id, class).ok_or("no such session")?;
    Ok(format!("class was {before}, is {class}"))
}

fn found(found: bool, done: &str) -> String {
    if found { done } else { "no such session" }.into()
}
