//! What systemd is told and what it hands over. Without systemd none of this does anything.

use std::collections::HashMap;
use std::net::TcpListener;

use anyhow::{Result, bail};
use sd_notify::NotifyState;

use crate::server::Host;

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

/// Tells the watchdog that all is well for as long as every thread takes up work. Ends where there is no watchdog.
pub(super) async fn watch(host: Host) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    // As its manual advises: twice in a period.
    let (step, patience) = (period / 2, period / 4);
    loop {
        if host.is_well(patience).await {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::warn!(?patience, "a thread that runs sessions did not take up work; the watchdog is not told");
        }
        tokio::time::sleep(step).await;
    }
}

/// Listening sockets by their names, which are names of servers.
pub(super) fn sockets() -> Result<HashMap<String, TcpListener>> {
    use std::os::fd::{FromRawFd, OwnedFd};
    let mut sockets = HashMap::new();
    for (number, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: systemd passes these descriptors to this process alone and says so by its process id in the
        // environment, which was checked. Nobody else in the process knows them, and this runs once.
        #[allow(unsafe_code)]
        let owned = unsafe { OwnedFd::from_raw_fd(number) };
        if sockets.insert(name.clone(), TcpListener::from(owned)).is_some() {
            bail!("systemd hands over two sockets called `{}`", name.escape_debug());
        }
    }
    Ok(sockets)
}
