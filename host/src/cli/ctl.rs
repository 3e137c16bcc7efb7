//! `wharf ctl`: each verb is one request to the control API of a running process.

use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::answer::{explain, fail, runtime, send};
use super::help::CONTROL;
use super::request::{Ask, at, encoded};
use super::text::printable;
use super::words::name;
use crate::control::{Client, default_socket};

/// Most bytes that are sent from standard input.
const INPUT_MAX_BYTES: u64 = 1 << 20;

#[derive(Args)]
pub(super) struct CtlArgs {
    /// Control socket; by default `$XDG_RUNTIME_DIR/wharf/control.sock`.
    #[arg(long, global = true, env = "WHARF_CONTROL", help_heading = CONTROL)]
    socket: Option<PathBuf>,
    /// Print the API's answer as JSON.
    #[arg(long, global = true, help_heading = CONTROL)]
    json: bool,
    #[command(subcommand)]
    verb: CtlVerb,
}

#[derive(Subcommand)]
enum CtlVerb {
    /// List the servers.
    Servers,
    /// Show one server.
    Show {
        /// The server's name.
        server: String,
    },
    /// List the limits for a server's next client, with sources.
    Limits {
        /// The server's name.
        server: String,
    },
    /// List the tenants, with their use and their quotas.
    Tenants,
    /// Accept no new connections until `resume`.
    Suspend {
        /// The server's name.
        server: String,
        /// What becomes of new connections.
        #[arg(long = "newcomers", value_name = "NEWCOMERS", value_enum, default_value = "queue")]
        new_connections: NewConnectionsChoice,
        /// What becomes of live sessions.
        #[arg(long, value_enum, default_value = "keep")]
        sessions: Sessions,
        /// Longest drain, such as 30s.
        #[arg(long)]
        deadline: Option<String>,
    },
    /// Accept new connections again.
    Resume {
        /// The server's name.
        server: String,
    },
    /// End all sessions and accept again; the address stays bound.
    Restart {
        /// The server's name.
        server: String,
        /// Drain first for at most this long, such as 30s.
        #[arg(long)]
        drain: Option<String>,
        /// Read the configuration again first.
        #[arg(long)]
        reload: bool,
    },
    /// End a server and its sessions.
    Stop {
        /// The server's name.
        server: String,
        /// Drain first for at most this long, such as 30s.
        #[arg(long)]
        drain: Option<String>,
        /// Longest time to end the sessions after the drain, such as 10s.
        #[arg(long)]
        grace: Option<String>,
    },
    /// Show or change a server's limits; 0: no limit.
    Throttle {
        /// The server's name.
        server: String,
        /// Most clients at a time.
        #[arg(long)]
        max_clients: Option<u64>,
        /// Most clients at a time from one address.
        #[arg(long)]
        max_per_address: Option<u64>,
        /// Least time between two accepts, such as 10ms.
        #[arg(long)]
        accept_interval: Option<String>,
        /// Most sessions per second from one address.
        #[arg(long, value_parser = finite)]
        rate_per_address: Option<f64>,
        /// Most sessions at once from one address.
        #[arg(long)]
        burst_per_address: Option<u32>,
    },
    /// Pause a server's events and accepts; print a lock token.
    Lock {
        /// The server's name.
        server: String,
        /// Longest wait for the lock, such as 5s.
        #[arg(long)]
        wait: Option<String>,
        /// Longest time that the lock is held, such as 10s.
        #[arg(long)]
        hold: Option<String>,
    },
    /// Release a lock.
    Unlock {
        /// The server's name.
        server: String,
        /// The token that `lock` printed.
        token: u64,
    },
    /// Keep a text with a server.
    Data {
        /// The server's name.
        server: String,
        /// The text.
        data: String,
    },
    /// Set the class of a server's new sessions, or of one session.
    Priority {
        /// The server's name.
        server: String,
        /// background, low, normal, high or critical.
        class: String,
        /// Only this session, from its next event on.
        #[arg(long)]
        session: Option<u64>,
    },
    /// List a server's sessions.
    Sessions {
        /// The server's name.
        server: String,
        /// Only the session of this name.
        #[arg(long)]
        name: Option<String>,
        /// Only sessions with ids above this.
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// Most sessions listed, up to 1000.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Show one session.
    Session {
        /// The server's name.
        server: String,
        /// The session's number.
        id: u64,
    },
    /// End a session gracefully.
    Disconnect {
        /// The server's name.
        server: String,
        /// The session's number.
        id: u64,
    },
    /// End a session at once.
    Abort {
        /// The server's name.
        server: String,
        /// The session's number.
        id: u64,
    },
    /// Send a text, or standard input, to one session or to all.
    Send {
        /// The server's name.
        server: String,
        /// Only this session.
        #[arg(long)]
        session: Option<u64>,
        /// The text; standard input if none is given.
        text: Option<String>,
    },
    /// Name a session.
    Name {
        /// The server's name.
        server: String,
        /// The session's number.
        id: u64,
        /// The name, unique on the server.
        name: String,
    },
    /// Read the configuration again and apply it.
    Reload,
    /// Read a server's certificate and key again.
    RenewCredentials {
        /// The server's name.
        server: String,
    },
    /// Print events as they happen, until interrupted.
    Events,
    /// Print the metrics.
    Metrics,
    /// Check readiness: no drain, and every server can listen.
    ///
    /// Exit code 1 if not. A suspended server counts as ready.
    Ready,
}

#[derive(Clone, Copy, ValueEnum)]
enum NewConnectionsChoice {
    Queue,
    Reject,
}

#[derive(Clone, Copy, ValueEnum)]
enum Sessions {
    Keep,
    Drain,
    Disconnect,
}

fn finite(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| "expected a number".to_owned())
}

impl CtlVerb {
    fn ask(&self) -> std::io::Result<Ask> {
        let post = |path: String, values: Value| Ask::with("POST", path, values);
        Ok(match self {
            Self::Servers => Ask::get("/v1/servers"),
            Self::Show { server } => Ask::get(at(server, "")),
            Self::Limits { server } => Ask::get(at(server, "/limits")),
            Self::Tenants => Ask::get("/v1/tenants"),
            Self::Suspend { server, new_connections, sessions, deadline } => post(
                at(server, "/suspend"),
                json!({ "newcomers": name(*new_connections), "sessions": name(*sessions),
                    "deadline": deadline }),
            ),
            Self::Resume { server } => post(at(server, "/resume"), json!({})),
            Self::Restart { server, drain, reload } => {
                let sessions = drain.as_ref().map_or("disconnect", |_| "drain");
                post(
                    at(server, "/restart"),
                    json!({ "sessions": sessions, "deadline": drain, "reload": reload }),
                )
            }
            Self::Stop { server, drain, grace } => {
                post(at(server, "/stop"), json!({ "drain": drain, "grace": grace }))
            }
            Self::Throttle {
                server,
                max_clients,
                max_per_address,
                accept_interval,
                rate_per_address,
                burst_per_address,
            } => Ask::with(
                "PATCH",
                at(server, "/throttle"),
                json!({
                    "max_clients": max_clients,
                    "max_per_address": max_per_address,
                    "accept_interval": accept_interval,
                    "rate_per_address": rate_per_address,
                    "burst_per_address": burst_per_address,
                }),
            ),
            Self::Lock { server, wait, hold } => {
                post(at(server, "/lock"), json!({ "wait": wait, "hold": hold }))
            }
            Self::Unlock { server, token } => {
                post(at(server, "/unlock"), json!({ "token": token }))
            }
            Self::Data { server, data } => {
                Ask::with("PUT", at(server, "/data"), json!({ "data": data }))
            }
            Self::Priority { server, class, session } => {
                let rest =
                    session.map_or("/priority".into(), |id| format!("/sessions/{id}/priority"));
                Ask::with("PUT", at(server, &rest), json!({ "priority": class }))
            }
            Self::Sessions { server, name, after, limit } => {
                let name = name
                    .as_ref()
                    .map(|name| format!("&name={}", encoded(name)))
                    .unwrap_or_default();
                Ask::get(at(server, &format!("/sessions?after={after}&limit={limit}{name}")))
            }
            Self::Session { server, id } => Ask::get(at(server, &format!("/sessions/{id}"))),
            Self::Disconnect { server, id } => {
                post(at(server, &format!("/sessions/{id}/disconnect")), json!({}))
            }
            Self::Abort { server, id } => {
                post(at(server, &format!("/sessions/{id}/abort")), json!({}))
            }
            Self::Send { server, session, text } => {
                let rest = session.map_or("/broadcast".into(), |id| format!("/sessions/{id}/send"));
                let mut body = Vec::new();
                match text {
                    Some(text) => body.extend_from_slice(text.as_bytes()),
                    None => {
                        std::io::stdin().take(INPUT_MAX_BYTES + 1).read_to_end(&mut body)?;
                    }
                }
                if body.len() as u64 > INPUT_MAX_BYTES {
                    let message = format!("more than {INPUT_MAX_BYTES} bytes; nothing was sent");
                    return Err(std::io::Error::new(ErrorKind::InvalidInput, message));
                }
                Ask { method: "POST", path: at(server, &rest), body }
            }
            Self::Name { server, id, name } => Ask::with(
                "PUT",
                at(server, &format!("/sessions/{id}/name")),
                json!({ "name": name }),
            ),
            Self::Reload => post("/v1/reload".into(), json!({})),
            Self::RenewCredentials { server } => post(at(server, "/credentials/renew"), json!({})),
            Self::Events => Ask::get("/v1/events"),
            Self::Metrics => Ask::get("/metrics"),
            Self::Ready => Ask::get("/readyz"),
        })
    }
}

/// Runs one verb and returns its exit code.
///
/// - 0: done.
/// - 1: refused, or not ready.
/// - 2: the command line, or a value on it, is wrong.
/// - 3: no process answers.
/// - 4: no such server or session.
/// - 5: a conflict with the server's state or with another call.
pub(super) fn run(arguments: &CtlArgs) -> ExitCode {
    if matches!(arguments.verb, CtlVerb::Events) {
        let hear = |piece: &[u8]| {
            let mut out = std::io::stdout().lock();
            let text = String::from_utf8_lossy(piece);
            let mut lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
            lines.all(|line| writeln!(out, "{}", printable(line)).is_ok() && out.flush().is_ok())
        };
        let client = Client::new(&arguments.socket.clone().unwrap_or_else(default_socket));
        return match runtime().map(|runtime| runtime.block_on(client.listen(hear))) {
            Ok(Ok(())) => ExitCode::SUCCESS,
            Ok(Err(error)) => explain(&error),
            Err(error) => fail(&error, 1),
        };
    }
    let ask = match arguments.verb.ask() {
        Ok(ask) => ask,
        Err(error) => {
            return fail(&error, if error.kind() == ErrorKind::InvalidInput { 2 } else { 1 });
        }
    };
    send(arguments.socket.clone(), ask, arguments.json, |answer| misses(answer, &arguments.verb))
}

/// The exit code of an answer that is no refusal. Not 0 if the call had no effect: no session has
/// the name, or no session took the bytes.
fn misses(answer: &Value, verb: &CtlVerb) -> u8 {
    let no_session = answer["sessions"].as_array().is_some_and(Vec::is_empty);
    match verb {
        CtlVerb::Sessions { name: Some(_), .. } if no_session => 4,
        CtlVerb::Send { session: None, .. } if answer["taken"] == 0 && answer["refused"] != 0 => 5,
        _ => 0,
    }
}
