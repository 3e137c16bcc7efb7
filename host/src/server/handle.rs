//! The handle of a running server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};

use super::host::Host;
use super::service::{Phase, Service};
use crate::plugin::Plugin;
use crate::telemetry::{PluginSwapped, ServerStopped, Snapshot};

/// A running server. Dropping the handle ends the server and its sessions at once; [`ServerHandle::stop`] is the
/// graceful way.
pub struct ServerHandle {
    service: Arc<Service>,
    host: Host,
    address: SocketAddr,
    drained: Mutex<mpsc::Receiver<()>>,
}

impl ServerHandle {
    pub(super) fn new(service: Arc<Service>, host: Host, address: SocketAddr, drained: mpsc::Receiver<()>) -> Self {
        Self { service, host, address, drained: Mutex::new(drained) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.service.name
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Clients that hold a place now: in the handshake, in a session, or on their way out.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.service.gate.clients()
    }

    /// Its counters now.
    #[must_use]
    pub fn counters(&self) -> Snapshot {
        self.service.counters.snapshot()
    }

    /// What new sessions get.
    #[must_use]
    pub fn plugin(&self) -> Arc<Plugin> {
        Arc::clone(self.service.procedure().plugin())
    }

    /// The host it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Gives new sessions another plugin, loaded by the same host's loader. Live sessions keep theirs.
    pub fn swap(&self, plugin: Arc<Plugin>) {
        let label = plugin.label();
        let procedure = self.service.procedure().with_plugin(plugin);
        self.service.procedure.store(Arc::new(procedure));
        PluginSwapped { server: &self.service.name, plugin: &label }.emit();
    }

    /// Stops the server: takes no newcomers, ends every session gracefully with `server-stopped`, and those that are
    /// not done after `grace` at once. When this returns nothing of the server runs and its address is free.
    /// Idempotent; of two concurrent calls both return when it is over. Works on any executor but needs the time of a
    /// tokio runtime. Dropping the future leaves the server draining.
    pub async fn stop(&self, grace: Duration) {
        self.service.advance(Phase::Draining);
        let mut drained = self.drained.lock().await;
        let mut cancelled = 0;
        if tokio::time::timeout(grace, drained.recv()).await.is_err() {
            cancelled = self.clients();
            self.service.advance(Phase::Cancelled);
            drained.recv().await;
        }
        ServerStopped { server: &self.service.name, cancelled }.emit();
    }

    /// [`ServerHandle::stop`] for callers outside a runtime; blocks.
    pub fn stop_blocking(&self, grace: Duration) {
        self.host.runtime().block_on(self.stop(grace));
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.service.advance(Phase::Cancelled);
    }
}
