//! `wharf serve`: starts the servers, steers them by signals, and ends them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use sd_notify::NotifyState;
use tokio::sync::watch;

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::args::{Cli, ServeArgs};
use super::fd_store::{SESSIONS, SystemdStore, listens};
use super::signals::{Request, Signals};
use super::systemd::{self, HandedDescriptors};
use super::upgrade::{self, Upgrader};
use crate::config::{Config, STOP_GRACE_DEFAULT, default_cache_dir, registries};
use crate::control::{Control, ControlConfig, Reload};
use crate::net::SocketOptions;
use crate::plugin::{Compiler, Grants};
use crate::server::{Host, HostConfig};
use crate::servers::{Plan, PlanCause, PlanError, Reloaded, Servers};
use crate::upgrade::{DetachedSession, FdStore, InheritedListener, UpgradeClient, detach_sessions};
use crate::work::{RefusedResource, WorkKind};

/// Least time for detaching sessions, even if `stop_grace` is shorter.
const DETACH_MIN: Duration = Duration::from_secs(3);

/// Serves until a signal. All servers are bound before the first accepts. If one server cannot be
/// bound, none runs.
pub(super) fn run(arguments: &ServeArgs) -> Result<()> {
    let mut upgrade_client = upgrade::upgrade_client()?;
    let done = serve(arguments, &mut upgrade_client);
    if let (Err(error), Some(upgrade_client)) = (&done, upgrade_client) {
        upgrade_client.fails(&error.to_string());
    }
    done
}

fn serve(arguments: &ServeArgs, upgrade_client: &mut Option<UpgradeClient>) -> Result<()> {
    if let Some(flag) = arguments.stray_flag() {
        let message = format!(
            "{flag} describes a server without a file and needs --plugin; with a file, put it into \
             the file\n"
        );
        // The same form as every other mistake on the command line.
        Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit();
    }
    let (file, config) = match (&arguments.plugin, arguments.server.listen) {
        (Some(plugin), Some(listen)) => {
            let grants: Grants = arguments.grants.iter().copied().collect();
            let server = arguments
                .server
                .describe(listen, SocketOptions::default())
                .plugin(plugin)
                .grants(grants);
            let host = HostConfig {
                cache_dir: default_cache_dir(),
                compiler: Some(Compiler::this_program()),
                ..HostConfig::default()
            };
            let server = server.registries(Arc::new(registries(None)?));
            let place = "the server of the command line".to_owned();
            let control =
                arguments.control.clone().map(|socket| ControlConfig { socket, listen: None });
            (
                None,
                Config {
                    host,
                    stop_grace: STOP_GRACE_DEFAULT,
                    control,
                    tenants: BTreeMap::new(),
                    servers: vec![(place, server)],
                },
            )
        }
        _ => (Some(arguments.config.clone()), read(&arguments.config)?),
    };
    let origin = file.as_ref().map(|file| format!("{}: ", file.display())).unwrap_or_default();
    let mut handed = systemd::handed_over()?;
    let store = SystemdStore::of_this_unit(upgrade_client.is_some()).map(Arc::new);
    let host = Host::new(&config.host).map_err(|error| anyhow!("{origin}{error}"))?;
    if let Some(store) = &store {
        host.keep_sockets_on(Arc::clone(store) as Arc<dyn FdStore>);
    }
    let mut signals = host.runtime().block_on(async { Signals::listen() })?;
    let control = config.control.clone();
    // The API's sockets are opened before any server accepts. The API answers once all servers
    // accept.
    let upgrader = Upgrader::of_this_process();
    let endpoints =
        upgrade_client.as_mut().map(|left| std::mem::take(&mut left.endpoints)).unwrap_or_default();
    let opening = control.as_ref().map(|control| Control::open(control, endpoints)).transpose()?;
    let sessions = std::mem::take(&mut handed.sessions);
    let mut plan = plan(config, handed, store.as_deref())?;
    if let Some(upgrade_client) = upgrade_client {
        plan.inherited = std::mem::take(&mut upgrade_client.listeners);
    }
    if let Some(store) = &store {
        store.has(plan.inherited.keys().cloned());
    }
    let starting = host.clone();
    let servers = host.runtime().block_on(async {
        // Loading plugins can take long. A signal ends that too.
        let threads = starting.clone();
        let bind = threads.work(WorkKind::Long, move || Servers::bind(starting, plan));
        tokio::select! {
            servers = bind => Ok(Some(servers?)),
            _ = signals.end() => anyhow::Ok(None),
        }
    })?;
    let Some(servers) = servers else {
        tracing::info!("ended by a signal before anything was started");
        return Ok(());
    };
    let servers = servers.map_err(|error| {
        let mistakes: Vec<_> =
            error.mistakes.iter().map(|mistake| format!("{origin}{mistake}")).collect();
        anyhow!("nothing was started:\n{}", mistakes.join("\n"))
    })?;
    if let Some(store) = store.as_ref().filter(|_| upgrade_client.is_none()) {
        store.clear_out();
    }
    let servers = servers.run_with(taken_up(sessions, store.as_deref()));
    let reload = Reload::new({
        let file = file.clone();
        move |servers| reload(file.clone(), control.clone(), servers)
    });
    if let Some(upgrade_client) = upgrade_client.take() {
        let endpoints =
            opening.as_ref().map(|opening| opening.adopted().to_vec()).unwrap_or_default();
        let begins = {
            let store = store.clone();
            move || store.iter().for_each(|store| store.begin())
        };
        upgrade_client
            .serves(Arc::clone(&servers), endpoints, begins)
            .map_err(|problem| anyhow!("the process before this one serves on: {problem}"))?;
    }
    let upgrade = Some(upgrader.upgrade());
    let control =
        opening.map(|opening| opening.serve(Arc::clone(&servers), reload.clone(), upgrade));
    let steering = steer(&servers, &reload, (file.is_some(), store), signals, upgrader.sent());
    let done = host.runtime().block_on(steering);
    drop(control);
    done
}

fn read(file: &Path) -> Result<Config> {
    if !file.exists() {
        bail!(
            "{}: cannot read the configuration: there is no such file (name another with --config, \
             or describe one server with --plugin FOLDER --listen \
             ADDRESS:PORT)",
            file.display()
        );
    }
    Ok(Config::read(file)?)
}

async fn steer(
    servers: &Arc<Servers>,
    reload: &Reload,
    (has_file, store): (bool, Option<Arc<SystemdStore>>),
    mut signals: Signals,
    mut sent: watch::Receiver<Option<Duration>>,
) -> Result<()> {
    let watchdog = tokio::spawn(systemd::watch(servers.host().clone()));
    systemd::tell(&[NotifyState::Ready]);
    let mut request = loop {
        let request = tokio::select! {
            request = signals.next() => request,
            Ok(grace) = sent.wait_for(Option::is_some) => {
                Request::Replaced(grace.unwrap_or_default())
            }
        };
        match request {
            Request::Reload if !has_file => {
                tracing::info!("SIGHUP: there is no configuration file to read again");
            }
            Request::Reload => {
                // In a task of its own, so that signals are handled while plugins are loaded.
                let (servers, reload) = (Arc::clone(servers), reload.clone());
                tokio::spawn(async move {
                    systemd::reloading();
                    if let Err(mistakes) = reload.run(&servers).await {
                        tracing::error!(
                            "the configuration was refused, and nothing was changed:\n{mistakes}"
                        );
                    }
                    systemd::tell(&[NotifyState::Ready]);
                });
            }
            request => break request,
        }
    };
    let grace = match (request, store) {
        // By now the new process is the unit's main process, so this one tells systemd nothing.
        (Request::Replaced(grace), _) => grace,
        (Request::Leave, Some(store)) => {
            systemd::tell(&[NotifyState::Stopping]);
            let (grace, start) = (servers.stop_grace(), Instant::now());
            tokio::select! {
                () = detach_for_next_process(servers, store, grace) => {}
                _ = signals.end() => request = Request::Stop,
            }
            grace.saturating_sub(start.elapsed())
        }
        _ => {
            systemd::tell(&[NotifyState::Stopping]);
            servers.stop_grace()
        }
    };
    signals.finish(request, servers, grace).await;
    watchdog.abort();
    Ok(())
}

/// Detaches sessions into the descriptor store, for the next process of the unit.
async fn detach_for_next_process(
    servers: &Arc<Servers>,
    store: Arc<SystemdStore>,
    grace: Duration,
) {
    let fd_store = Arc::clone(&store) as Arc<dyn FdStore>;
    let left = detach_sessions(servers, fd_store, grace.max(DETACH_MIN)).await;
    if let Err(error) = servers.host().work(WorkKind::Urgent, move || store.done()).await {
        tracing::warn!(%error, "systemd may not have done what it was told about its store");
    }
    tracing::info!(left = left.moved, stayed = ?left.stayed, "sessions wait for the next process");
}

/// Attaches the sessions that the previous process left in the store. They are removed from the
/// store before they run here, so that no session can run twice.
fn taken_up(descriptors: Vec<OwnedFd>, store: Option<&SystemdStore>) -> Vec<DetachedSession> {
    if descriptors.is_empty() {
        return Vec::new();
    }
    let (sessions, strays) = DetachedSession::among(descriptors);
    if let Some(store) = store {
        store.remove([SESSIONS]);
    }
    tracing::info!(
        sessions = sessions.len(),
        strays,
        "sessions of the process before are taken up"
    );
    sessions
}

/// Makes the plan, and gives each socket from systemd to the server of its name. Stored sockets
/// that no server can use are closed and removed from the store, before they block a bind.
fn plan(config: Config, handed: HandedDescriptors, store: Option<&SystemdStore>) -> Result<Plan> {
    let mut plan = config.plan();
    let HandedDescriptors { mut sockets, mut kept, mut strays, twice, .. } = handed;
    match (twice, store) {
        // The second socket of a name is from the store. Nothing in the store may prevent a
        // start.
        (Some(name), Some(_)) => drop(strays.insert(name)),
        (Some(name), None) => {
            bail!("systemd hands over two sockets called `{}`", name.escape_debug())
        }
        (None, _) => {}
    }
    for (_, server) in &mut plan.servers {
        let given = server.given_name().and_then(|name| sockets.remove(name));
        if let Some(socket) = given {
            *server = server.clone().listener(socket);
        }
    }
    match (sockets.keys().next(), store) {
        // Nothing in the store may prevent a start, as above.
        (_, Some(_)) => strays.extend(sockets.drain().map(|(name, _)| name)),
        (Some(name), None) => {
            bail!(
                "systemd hands over a socket called `{}`, and no server has this `name`",
                name.escape_debug()
            );
        }
        (None, None) => {}
    }
    let addresses: Vec<_> =
        plan.servers.iter().filter_map(|(_, server)| server.address()).collect();
    let is_of_use = |socket: &InheritedListener| {
        socket.address().is_some_and(|address| addresses.contains(&address))
    };
    strays.extend(
        kept.extract_if(|_, socket| !is_of_use(socket)).map(|(server, _)| listens(&server)),
    );
    for name in &strays {
        tracing::warn!(name = %name.escape_debug(), "systemd handed over what no server has a use \
            for; it is closed");
    }
    if let Some(store) = store.filter(|_| !strays.is_empty()) {
        store.remove(strays.iter().map(String::as_str));
    }
    plan.inherited = kept;
    Ok(plan)
}

async fn reload(
    file: Option<PathBuf>,
    control: Option<ControlConfig>,
    servers: Arc<Servers>,
) -> Result<Reloaded, PlanError> {
    let Some(file) = file else {
        return Err(PlanError::mistake("this process was started without a configuration file"));
    };
    let shown = file.display().to_string();
    let read = servers.host().work(WorkKind::Short, move || Config::read(&file)).await;
    let config = read?.map_err(|error| match RefusedResource::in_causes(&error) {
        Some(refusal) => PlanError { mistakes: error.mistakes, cause: PlanCause::System(refusal) },
        None => PlanError { mistakes: error.mistakes, cause: PlanCause::Configuration },
    })?;
    if config.control != control {
        return Err(PlanError::mistake(format!(
            "{shown}: `control`, its token included, cannot be changed while servers run; start \
             the process anew"
        )));
    }
    let report = servers.reload(config.plan()).await;
    let report = report.map_err(|error| error.map_lines(|line| format!("{shown}: {line}")))?;
    tracing::info!(started = ?report.started, changed = ?report.changed, removed = ?report.removed,
        "reloaded");
    Ok(report)
}
