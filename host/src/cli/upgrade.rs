//! `wharf upgrade`: both ends of it. The running process starts a program as it was started itself
//! and gives it what it listens with; the new process finds that where its standard input would be.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use sd_notify::NotifyState;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::ctl::{self, Ask};
use super::launch::Spawned;
use super::systemd;
use crate::control::{Upgrade, UpgradeOptions, Upgraded};
use crate::net::FdChannel;
use crate::server::{Servers, UpgradeClient, offer_sockets};
use crate::work::WorkKind;

/// Says to a process that another is to be succeeded, through standard input.
const MARK: &str = "WHARF_TAKES_OVER";
/// What systemd says to one process and not to the next.
const OTHERS: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];
/// A new process that says that it serves and ends within this time has not taken over. Until then
/// both accept.
const STAYS_MIN: Duration = Duration::from_millis(100);
/// The exit code where sessions stayed that could not move, as for `wharf plugin swap`.
const STAYED: u8 = 5;

#[derive(Args)]
pub(super) struct UpgradeArgs {
    /// The control socket; as in `[control]`, `$XDG_RUNTIME_DIR/wharf/control.sock` where none is
    /// given.
    #[arg(long, env = "WHARF_CONTROL")]
    socket: Option<PathBuf>,
    /// The new program; where none is given, what lies now where the running one was started from.
    #[arg(long)]
    program: Option<PathBuf>,
    /// How long the new process may take until it serves, as 2m, which is the default.
    #[arg(long)]
    timeout: Option<String>,
    /// How long sessions that cannot move may go on in the old process, as 1h; `stop_grace` where
    /// none is given.
    #[arg(long)]
    drain: Option<String>,
    /// Print what the API answers, for programs.
    #[arg(long)]
    json: bool,
}

/// Asks the running process. 0: the new one serves, and all sessions have moved. 5: it serves, and
/// some stayed. The others as for `wharf ctl`: 1 where nothing was changed.
pub(super) fn run(arguments: &UpgradeArgs) -> ExitCode {
    let program = match arguments.program.as_ref().map(std::path::absolute).transpose() {
        Ok(program) => program,
        Err(error) => return ctl::fail(&format!("--program: {error}"), 2),
    };
    let body =
        json!({ "program": program, "timeout": arguments.timeout, "drain": arguments.drain });
    let ask = Ask::with("POST", "/v1/upgrade".into(), body);
    ctl::send(arguments.socket.clone(), ask, arguments.json, |answer| {
        let stayed = stayed(&answer["stayed"]);
        if stayed == 0 {
            return 0;
        }
        let sessions = if stayed == 1 { "session" } else { "sessions" };
        eprintln!(
            "wharf: {stayed} {sessions} stayed in the old process, which ends once they have, or \
             its grace is over"
        );
        STAYED
    })
}

/// How many sessions go on in the old process. Those that were over meanwhile do not.
fn stayed(reasons: &Value) -> u64 {
    let over = ["ended", "ending", "fault"];
    let staying =
        reasons.as_object().into_iter().flatten().filter(|(why, _)| !over.contains(&why.as_str()));
    staying.filter_map(|(_, count)| count.as_u64()).sum()
}

/// What the process before this one offers, where there is one.
pub(super) fn upgrade_client() -> Result<Option<UpgradeClient>> {
    if std::env::var_os(MARK).is_none() {
        return Ok(None);
    }
    let end = std::io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    let received = UpgradeClient::receive(end).map_err(anyhow::Error::msg);
    received.context(format!("{MARK} is set, and nothing was handed over")).map(Some)
}

/// Starts successors of this process.
pub(super) struct Successors {
    program: Option<PathBuf>,
    arguments: Vec<OsString>,
    /// How long sessions may go on here, once another process serves.
    sent: watch::Sender<Option<Duration>>,
}

impl Successors {
    /// Of this process, as it was started.
    pub(super) fn of_this_process() -> Arc<Self> {
        // Now, because the system says something else once another file lies there.
        let program = std::env::current_exe().ok();
        let arguments = std::env::args_os().skip(1).collect();
        Arc::new(Self { program, arguments, sent: watch::Sender::new(None) })
    }

    /// Says when another process serves in place of this one.
    pub(super) fn sent(&self) -> watch::Receiver<Option<Duration>> {
        self.sent.subscribe()
    }

    /// How the control API asks for one.
    pub(super) fn upgrade(self: &Arc<Self>) -> Upgrade {
        let successors = Arc::clone(self);
        Upgrade::new(move |servers: Arc<Servers>, wish| {
            let successors = Arc::clone(&successors);
            async move { successors.start(servers, wish).await }
        })
    }

    async fn start(&self, servers: Arc<Servers>, wish: UpgradeOptions) -> Result<Upgraded, String> {
        let program = wish.program.or_else(|| self.program.clone());
        let program =
            program.ok_or("it is not known where this program lies; name it with --program")?;
        let shown = program.display().to_string();
        let at = |problem: String| format!("{shown}: {problem}; nothing was changed");
        let (fd_channel, end) = FdChannel::pair().map_err(|error| at(error.to_string()))?;
        let arguments = self.arguments.clone();
        let start = move || Spawned::start(&program, &arguments, end, as_a_successor);
        let threads = servers.host().clone();
        let started =
            threads.work(WorkKind::Urgent, start).await.map_err(|error| at(error.to_string()))?;
        let child = started.map_err(|error| at(format!("cannot be started: {error}")))?;
        let process = child.id();
        tracing::info!(program = shown, process, "a new process is to take over");
        let handed_over =
            offer_sockets(Arc::clone(&servers), fd_channel, wish.endpoints, wish.timeout).await;
        // Before anything is given up: what crashes at once would leave nobody who serves.
        let looked = threads.work(WorkKind::Urgent, move || {
            let gone = handed_over.is_ok() && child.ends_within(STAYS_MIN);
            (
                if gone {
                    Err("it said that it serves, and ended".to_owned())
                } else {
                    handed_over
                },
                child,
            )
        });
        let (handed_over, mut child) = looked.await.map_err(|error| at(error.to_string()))?;
        let heir = match handed_over {
            Ok(heir) => heir,
            Err(problem) => {
                let end = threads.work(WorkKind::Urgent, move || child.end()).await.ok().flatten();
                let end = end.map(|status| format!(" ({status})")).unwrap_or_default();
                let problem = at(format!("{problem}{end}"));
                tracing::error!(problem, "no new process took over");
                return Err(problem);
            }
        };
        // Before systemd hears of it, which looks up whose child it is.
        if let Err(error) = threads.work(WorkKind::Urgent, move || child.release()).await {
            tracing::warn!(%error, process, "the new process is still a child of this one");
        }
        let doors_taken = heir.has_socket();
        heir.leave_store_alone();
        // Whoever sends the next word to systemd has to be known to it.
        systemd::tell(&[NotifyState::MainPid(process)]);
        let sent = heir.send_sessions().await;
        tracing::info!(process, moved = sent.moved, stayed = ?sent.stayed, "another \
            process took over");
        self.sent.send_replace(Some(wish.drain.unwrap_or_else(|| servers.stop_grace())));
        Ok(Upgraded { process, doors_taken, sent })
    }
}

/// What is different for it than for this process.
fn as_a_successor(command: &mut Command) {
    command.env(MARK, "1");
    for name in OTHERS {
        command.env_remove(name);
    }
}
