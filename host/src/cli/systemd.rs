//! Messages to systemd, and the descriptors from systemd. Without systemd nothing here has an
//! effect.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::Result;
use sd_notify::NotifyState;

use super::fd_store::{SESSIONS, server_of};
use crate::net::is_listening;
use crate::server::Host;
use crate::upgrade::InheritedListener;

/// Tells systemd the state of the process.
pub(super) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd did not hear");
    }
}

/// Tells systemd that the process reloads its configuration.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd did not hear"),
    }
}

/// Tells systemd's watchdog that the process is well, while every thread takes up work. Returns at
/// once if the unit has no watchdog.
pub(super) async fn watch(host: Host) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    // Twice in each period, as the manual of the watchdog advises.
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

/// The descriptors that systemd passes to this process.
#[derive(Default)]
pub(super) struct HandedDescriptors {
    /// Listening sockets of socket units, by names of servers.
    pub(super) sockets: HashMap<String, TcpListener>,
    /// Listening sockets that the previous process kept in the store, by names of servers.
    pub(super) kept: HashMap<String, InheritedListener>,
    /// Descriptors of sessions that the previous process left in the store.
    pub(super) sessions: Vec<OwnedFd>,
    /// Names of descriptors that this process cannot use and has closed.
    pub(super) strays: BTreeSet<String>,
    /// A name that two sockets have and that is no name of this program in the store. The second
    /// socket is closed.
    pub(super) twice: Option<String>,
}

/// Takes the descriptors from systemd. Must be called once, before other code opens descriptors by
/// number.
pub(super) fn handed_over() -> Result<HandedDescriptors> {
    let mut handed = HandedDescriptors::default();
    for (number, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: systemd passes these descriptors to this process alone and says so by its process
        // id in the environment, which was checked. No other code in the process knows them, and
        // this runs once.
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
                // Sockets of socket units come first, so the second one is from the store.
                Entry::Occupied(place) => handed.twice = Some(place.key().clone()),
            },
        }
    }
    Ok(handed)
}
