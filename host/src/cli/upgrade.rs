//! `wharf upgrade`, and both processes of an upgrade. The old process starts a program with its own
//! arguments and gives it a channel for the listening sockets. The new process finds the channel as
//! its standard input.

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

use super::answer;
use super::help::CONTROL;
use super::launch::Spawned;
use super::request::Ask;
use super::systemd;
use crate::control::{Upgrade, UpgradeError, UpgradeOptions, Upgraded};
use crate::net::FdChannel;
use crate::servers::Servers;
use crate::upgrade::{OfferError, UpgradeClient, offer_sockets};
use crate::work::WorkKind;

/// Variable of the environment that tells a process to take over from an old process, through the
/// channel at its standard input.
const MARK: &str = "WHARF_TAKES_OVER";
/// Variables of systemd that are for one process only and are not passed to the new one.
const OTHERS: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];
/// Time for which a new process must live after it reported ready. If it exits sooner, it counts as
/// failed too. Until then both processes accept.
const STAYS_MIN: Duration = Duration::from_millis(100);
/// The exit code if sessions could not move, as for `wharf plugin swap`.
const STAYED: u8 = 5;
/// The reason of sessions that the new process had taken over when it crashed.
const LOST: &str = "lost";

#[derive(Args)]
pub(super) struct UpgradeArgs {
    /// Control socket; by default `$XDG_RUNTIME_DIR/wharf/control.sock`.
    #[arg(long, env = "WHARF_CONTROL", help_heading = CONTROL)]
    socket: Option<PathBuf>,
    /// The new program; by default the file now at the path of the running program.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Longest time until the new process serves; 2m by default.
    #[arg(long)]
    timeout: Option<String>,
    /// Longest time that sessions stay in the old process, such as 1h; by default `stop_grace`.
    #[arg(long)]
    drain: Option<String>,
    /// Print the API's answer as JSON.
    #[arg(long, help_heading = CONTROL)]
    json: bool,
}

/// Requests an upgrade of the running process, and returns the exit code.
///
/// - 0: the new process serves, and all sessions have moved.
/// - 5: the new process serves, and some sessions stayed or were lost.
/// - Others: as for `wharf ctl`. 1: nothing was changed.
pub(super) fn run(arguments: &UpgradeArgs) -> ExitCode {
    let program = match arguments.program.as_ref().map(std::path::absolute).transpose() {
        Ok(program) => program,
        Err(error) => return answer::fail(&format!("--program: {error}"), 2),
    };
    let body =
        json!({ "program": program, "timeout": arguments.timeout, "drain": arguments.drain });
    let ask = Ask::with("POST", "/v1/upgrade".into(), body);
    answer::send(arguments.socket.clone(), ask, arguments.json, |answer| {
        let notes = notes(&answer["stayed"]);
        notes.iter().for_each(|note| eprintln!("wharf: {note}"));
        if notes.is_empty() { 0 } else { STAYED }
    })
}

/// Returns the sentences about sessions that did not move, from the reasons of the API's answer.
fn notes(reasons: &Value) -> Vec<String> {
    let counted = |count: u64| match count {
        1 => "1 session".to_owned(),
        count => format!("{count} sessions"),
    };
    let mut notes = Vec::new();
    let stayed = stayed(reasons);
    if stayed > 0 {
        notes.push(format!(
            "{} stayed in the old process, which ends once they have, or its grace is over",
            counted(stayed)
        ));
    }
    if let Some(lost) = reasons[LOST].as_u64().filter(|lost| *lost > 0) {
        let were = if lost == 1 { "was" } else { "were" };
        notes.push(format!("{} {were} lost with the new process", counted(lost)));
    }
    notes
}

/// How many sessions go on in the old process. Sessions that are over are not counted.
fn stayed(reasons: &Value) -> u64 {
    let over = ["ended", "ending", "fault", LOST];
    let staying =
        reasons.as_object().into_iter().flatten().filter(|(why, _)| !over.contains(&why.as_str()));
    staying.filter_map(|(_, count)| count.as_u64()).sum()
}

/// Receives the offer of the old process. `None` if this process is not part of an upgrade.
pub(super) fn upgrade_client() -> Result<Option<UpgradeClient>> {
    if std::env::var_os(MARK).is_none() {
        return Ok(None);
    }
    let end = std::io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    let received = UpgradeClient::receive(end).map_err(anyhow::Error::new);
    received.context(format!("{MARK} is set, and nothing was handed over")).map(Some)
}

/// Starts new processes that take the place of this one.
pub(super) struct Upgrader {
    program: Option<PathBuf>,
    arguments: Vec<OsString>,
    /// Set once a new process serves: the time that remaining sessions may go on here.
    sent: watch::Sender<Option<Duration>>,
}

impl Upgrader {
    /// Records the program and the arguments of this process.
    pub(super) fn of_this_process() -> Arc<Self> {
        // Read now: the system reports another path once another file lies there.
        let program = std::env::current_exe().ok();
        let arguments = std::env::args_os().skip(1).collect();
        Arc::new(Self { program, arguments, sent: watch::Sender::new(None) })
    }

    /// A receiver that learns when a new process serves in place of this one.
    pub(super) fn sent(&self) -> watch::Receiver<Option<Duration>> {
        self.sent.subscribe()
    }

    /// The function by which the control API requests an upgrade.
    pub(super) fn upgrade(self: &Arc<Self>) -> Upgrade {
        let upgrader = Arc::clone(self);
        Upgrade::new(move |servers: Arc<Servers>, options| {
            let upgrader = Arc::clone(&upgrader);
            async move { upgrader.start(servers, options).await }
        })
    }

    async fn start(
        &self,
        servers: Arc<Servers>,
        options: UpgradeOptions,
    ) -> Result<Upgraded, UpgradeError> {
        let program = options.program.or_else(|| self.program.clone());
        let program = program.ok_or(UpgradeError::UnknownProgram)?;
        let shown = program.display().to_string();
        let (fd_channel, end) = FdChannel::pair()
            .map_err(|source| UpgradeError::Channel { program: program.clone(), source })?;
        let (started, arguments) = (program.clone(), self.arguments.clone());
        let start = move || Spawned::start(&started, &arguments, end, prepare_new_process);
        let threads = servers.host().clone();
        let no_work = |source| UpgradeError::Work { program: program.clone(), source };
        let started = threads.work(WorkKind::Urgent, start).await.map_err(no_work)?;
        let child =
            started.map_err(|source| UpgradeError::Start { program: program.clone(), source })?;
        let process = child.id();
        tracing::info!(program = shown, process, "a new process is to take over");
        let handed_over =
            offer_sockets(Arc::clone(&servers), fd_channel, options.endpoints, options.timeout)
                .await;
        // Checked before this process gives up anything. If the new process crashed after that, no
        // process would serve.
        let looked = threads.work(WorkKind::Urgent, move || {
            let gone = handed_over.is_ok() && child.ends_within(STAYS_MIN);
            (if gone { Err(OfferError::PeerLeft) } else { handed_over }, child)
        });
        let (handed_over, mut child) = looked.await.map_err(no_work)?;
        let ready_peer = match handed_over {
            Ok(ready_peer) => ready_peer,
            Err(source) => {
                let end = threads.work(WorkKind::Urgent, move || child.end());
                let status = end.await.ok().flatten();
                let error = UpgradeError::Refused { program, source, status };
                let problem = error.to_string();
                tracing::error!(problem, "no new process took over");
                return Err(error);
            }
        };
        // Released before systemd is told, because systemd then looks up the new process's parent.
        if let Err(error) = threads.work(WorkKind::Urgent, move || child.release()).await {
            tracing::warn!(%error, process, "the new process is still a child of this one");
        }
        let endpoints_taken = ready_peer.has_socket();
        ready_peer.leave_store_alone();
        // systemd must know the new main process before that process sends its first message.
        systemd::tell(&[NotifyState::MainPid(process)]);
        let sent = ready_peer.send_sessions().await;
        tracing::info!(process, moved = sent.moved, stayed = ?sent.stayed, "another \
            process took over");
        self.sent.send_replace(Some(options.drain.unwrap_or_else(|| servers.stop_grace())));
        Ok(Upgraded { process, endpoints_taken, sent })
    }
}

/// Sets the environment in which a new process differs from this one.
fn prepare_new_process(command: &mut Command) {
    command.env(MARK, "1");
    for name in OTHERS {
        command.env_remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_sessions_are_not_said_to_stay() {
        let note = |reasons: Value| notes(&reasons).join("; ");
        assert_eq!(note(json!({ "lost": 1 })), "1 session was lost with the new process");
        assert_eq!(note(json!({ "lost": 2 })), "2 sessions were lost with the new process");
        let both = note(json!({ "lost": 3, "tls": 2, "busy": 2, "ended": 8 }));
        assert!(both.starts_with("4 sessions stayed in the old process, which"), "{both}");
        assert!(both.ends_with("; 3 sessions were lost with the new process"), "{both}");
    }

    #[test]
    fn ended_sessions_need_no_note() {
        for reasons in [json!({}), json!({ "ended": 1, "ending": 2, "fault": 3 }), Value::Null] {
            assert_eq!(notes(&reasons), Vec::<String>::new(), "{reasons}");
        }
    }
}
