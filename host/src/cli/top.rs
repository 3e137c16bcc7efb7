//! `wharf top`: a live view of servers, their events, faults and busiest sessions, in the terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::{Value, json};

use super::help::CONTROL;
use super::tables::table;
use crate::control::{Client, ClientError, default_socket};

/// Most sessions of each server that are read, to show the busiest.
const SESSIONS_SEEN: usize = 1_000;
const SESSIONS_SHOWN: usize = 15;

#[derive(Args)]
pub(super) struct TopArgs {
    /// Control socket; by default `$XDG_RUNTIME_DIR/wharf/control.sock`.
    #[arg(long, env = "WHARF_CONTROL", help_heading = CONTROL)]
    socket: Option<PathBuf>,
    /// Time between two updates.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Updates until it ends by itself; 0: it goes on.
    #[arg(long, default_value_t = 0)]
    looks: u64,
}

/// Columns of a server. This view adds the values below `rate`.
const SERVERS: [(&str, &str); 11] = [
    ("SERVER", "/name"),
    ("STATUS", "/status"),
    ("SESSIONS", "/sessions"),
    ("NEW/s", "/rate/accepted"),
    ("EVENTS/s", "/rate/events"),
    ("P50 us", "/rate/p50"),
    ("P99 us", "/rate/p99"),
    ("FAULTS", "/rate/faults"),
    ("REFUSED", "/rate/refused"),
    ("CLASS", "/priority"),
    ("PLUGIN", "/plugin/label"),
];
const SESSIONS: [(&str, &str); 11] = [
    ("SERVER", "/server"),
    ("ID", "/id"),
    ("PEER", "/peer"),
    ("EVENT", "/event"),
    ("EVENTS/s", "/rate/events"),
    ("CPU %", "/rate/cpu"),
    ("CLASS", "/priority"),
    ("BUDGET %", "/rate/budget"),
    ("QUEUED", "/queued_bytes"),
    ("MEMORY", "/memory_bytes"),
    ("AGE s", "/age_seconds"),
];

/// The previous look: its time, and the counts by server and by session.
#[derive(Default)]
struct Before {
    at: Option<Instant>,
    servers: BTreeMap<String, (u64, u64)>,
    sessions: BTreeMap<(String, u64), (u64, f64)>,
}

pub(super) fn run(arguments: &TopArgs) -> ExitCode {
    let client = Client::new(&arguments.socket.clone().unwrap_or_else(default_socket));
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string());
    let done = done.and_then(|runtime| {
        let _raw = Raw::enter();
        runtime.block_on(watch(&client, arguments)).map_err(|error| error.to_string())
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wharf: {}", super::text::printable(&error));
            ExitCode::from(3)
        }
    }
}

async fn watch(client: &Client, arguments: &TopArgs) -> Result<(), ClientError> {
    let mut before = Before::default();
    let (quit, mut quits) = tokio::sync::mpsc::channel::<()>(1);
    if io::stdin().is_terminal() {
        let kept = quit.clone();
        let keys = std::thread::Builder::new().name("wharf-keys".into()).spawn(move || {
            let ends = |byte: &io::Result<u8>| matches!(byte, Ok(b'q' | b'Q' | 3) | Err(_));
            let _ = io::stdin().lock().bytes().find(ends);
            let _ = quit.blocking_send(());
        });
        if keys.is_err() {
            // The system refused the thread. A signal still ends the view, as below.
            std::mem::forget(kept);
        }
    } else {
        // Without a terminal no key can be pressed. The sender is kept, because dropping it would
        // count as a key.
        std::mem::forget(quit);
    }
    for look in 1.. {
        let screen = frame(client, &mut before).await?;
        // The view ends if its output is closed.
        if draw(&screen).is_err() || look == arguments.looks {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(arguments.every) => {}
            _ = quits.recv() => break,
            // The signal is handled, so that the terminal is restored.
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    Ok(())
}

async fn ask(client: &Client, path: &str) -> Result<Value, ClientError> {
    let answer = client.ask("GET", path, Vec::new()).await?;
    Ok(serde_json::from_slice(&answer).unwrap_or_default())
}

async fn frame(client: &Client, before: &mut Before) -> Result<String, ClientError> {
    let mut said = ask(client, "/v1/servers").await?;
    let now = Instant::now();
    let seconds = before.at.map(|at| now.duration_since(at).as_secs_f64());
    let mut seen = Before { at: Some(now), ..Before::default() };
    let mut sessions = Vec::new();
    let mut servers = said["servers"].as_array_mut().map(std::mem::take).unwrap_or_default();
    for server in &mut servers {
        let name = server["name"].as_str().unwrap_or_default().to_owned();
        let path = super::request::at(&name, &format!("/sessions?limit={SESSIONS_SEEN}"));
        let listed = ask(client, &path).await?;
        for session in listed["sessions"].as_array().into_iter().flatten() {
            let mut session = session.clone();
            let key = (name.clone(), session["id"].as_u64().unwrap_or(0));
            let (events, cpu) = (
                session["events"].as_u64().unwrap_or(0),
                session["cpu_seconds"].as_f64().unwrap_or(0.0),
            );
            let (old_events, old_cpu) = before.sessions.get(&key).copied().unwrap_or((events, cpu));
            let share = seconds.map_or(0.0, |seconds| 100.0 * (cpu - old_cpu) / seconds);
            session["server"] = json!(name);
            let fuel = |path: &str| session.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
            // How near the session's most expensive event came to the budget.
            let budget = 100.0 * fuel("/peak_fuel") / fuel("/budget/fuel").max(1.0);
            session["rate"] = json!({ "events": rate(events, old_events, seconds), "cpu": share,
                "budget": budget });
            seen.sessions.insert(key, (events, cpu));
            sessions.push(session);
        }
        let sum = |path: &str| -> u64 {
            let map = server.pointer(path).and_then(Value::as_object);
            map.into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
        };
        let (faults, refused) = (sum("/counters/faults"), sum("/counters/refused"));
        let count = |path: &str| server.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let (accepted, events) = (count("/counters/accepted"), count("/counters/events"));
        let (old_accepted, old_events) =
            before.servers.get(&name).copied().unwrap_or((accepted, events));
        let classes = server["latency_seconds"].as_object();
        let worst = |share: &str| {
            let all = classes.into_iter().flatten().filter_map(|(_, class)| class[share].as_f64());
            all.fold(0.0, f64::max) * 1e6
        };
        let (p50, p99) = (worst("p50"), worst("p99"));
        server["rate"] = json!({
            "accepted": rate(accepted, old_accepted, seconds),
            "events": rate(events, old_events, seconds),
            "faults": faults, "refused": refused, "p50": p50, "p99": p99,
        });
        seen.servers.insert(name, (accepted, events));
    }
    *before = seen;
    let cpu = |session: &Value| session["rate"]["cpu"].as_f64().unwrap_or(0.0);
    sessions.sort_by(|one, other| cpu(other).total_cmp(&cpu(one)));
    sessions.truncate(SESSIONS_SHOWN);
    let mut screen = table(&SERVERS, &servers);
    let _ = write!(screen, "\n\nBusiest sessions\n{}\n\nq ends.", table(&SESSIONS, &sessions));
    Ok(screen)
}

fn rate(now: u64, before: u64, seconds: Option<f64>) -> f64 {
    seconds.map_or(0.0, |seconds| now.saturating_sub(before) as f64 / seconds)
}

/// Draws over the previous screen. Without a terminal, writes one screen after the other.
fn draw(screen: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let printable = super::text::printable(screen);
    let drawn = if out.is_terminal() {
        let size = tcgetwinsize(&out).map_or((usize::MAX, usize::MAX), |size| {
            (usize::from(size.ws_row).max(1), usize::from(size.ws_col).max(1))
        });
        let lines = printable
            .lines()
            .take(size.0)
            .map(|line| line.chars().take(size.1).collect::<String>());
        let lines: Vec<_> = lines.map(|line| format!("{line}\x1b[K")).collect();
        write!(out, "\x1b[H{}\x1b[J", lines.join("\r\n"))
    } else {
        writeln!(out, "{printable}")
    };
    drawn.and_then(|()| out.flush())
}

/// The terminal, without echo and on its alternate screen. Dropping this restores it. `None`
/// without a terminal.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Self {
        let before = if io::stdout().is_terminal() { tcgetattr(io::stdin()).ok() } else { None };
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &raw);
            let _ = write!(io::stdout(), "\x1b[?1049h\x1b[?25l");
        }
        Self(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = write!(io::stdout(), "\x1b[?25h\x1b[?1049l");
            let _ = io::stdout().flush();
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}
