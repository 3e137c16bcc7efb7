//! What systemd is told and what it hands over. Without systemd none of this does anything.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::Result;
use sd_notify::NotifyState;

use super::fd_store::{SESSIONS, server_of};
use crate::net::is_listening;
use crate::server::{Host, InheritedListener};

/// Tells what the process is doing.
pub(super) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd did not hear");
    }
}

/// The configuration is read again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd did not hear"),
    }
}

/// Tells the watchdog that all is well for as long as every thread takes up work. Ends where there
/// is no watchdog.
pub(super) async fn watch(host: Host) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    // As its manual advises: twice in a period.
    let (step, patience) = (period / 2, period / 4);
    loop {
        if host.is_well(patience).await {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::warn!(
                ?patience,
                "a thread that runs sessions did not take up work; the watchdog is not told"
            );
        }
        tokio::time::sleep(step).await;
    }
}

/// What systemd hands over.
#[derive(Default)]
pub(super) struct HandedDescriptors {
    /// Listening sockets of socket units, by their names, which are names of servers.
    pub(super) sockets: HashMap<String, TcpListener>,
    /// Listening sockets that the process before this one kept in the store, by names of servers.
    pub(super) kept: HashMap<String, InheritedListener>,
    /// What belongs to sessions that it left there.
    pub(super) sessions: Vec<OwnedFd>,
    /// Names of what is of no use; it is closed.
    pub(super) strays: BTreeSet<String>,
    /// One that two sockets have that are no store's names; the second is closed.
    pub(super) twice: Option<String>,
}

/// Takes what systemd hands over. Once, and before anything else opens descriptors by number.
pub(super) fn handed_over() -> Result<HandedDescriptors> {
    let mut handed = HandedDescriptors::default();
    for (number, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: systemd passes these descriptors to this process alone and says so by its process
        // id in the environment, which was checked. Nobody else in the process knows them, and this
        // runs once.
        #[allow(unsafe_code)]
        let owned = unsafe { OwnedFd::from_raw_fd(number) };
        if name == SESSIONS {
            handed.sessions.push(owned);
            continue;
        }
        let server = server_of(&name);
        if !is_listening(&owned) {
            handed.strays.insert(name);
            continue;
        }
        match server {
            Some(server) => drop(handed.kept.insert(server, InheritedListener::kept(owned.into()))),
            None => match handed.sockets.entry(name) {
                Entry::Vacant(place) => drop(place.insert(owned.into())),
                // Those of socket units come first.
                Entry::Occupied(place) => handed.twice = Some(place.key().clone()),
            },
        }
    }
    Ok(handed)
}
