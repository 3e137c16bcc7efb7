//! The signals that stop the process.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::server::ServerHandle;

/// SIGINT and SIGTERM.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Must be called inside a runtime.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for either. Dropping the future is safe.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for a signal, then stops the servers gracefully; a second signal stops them at once.
    pub(super) async fn stop_on_signal(&mut self, servers: &[ServerHandle], grace: Duration) {
        self.next().await;
        tracing::info!(?grace, "stopping; a second signal stops at once");
        let graceful = stop_all(servers, grace);
        tokio::select! {
            () = graceful => {}
            () = self.next() => stop_all(servers, Duration::ZERO).await,
        }
    }
}

async fn stop_all(servers: &[ServerHandle], grace: Duration) {
    futures_util::future::join_all(servers.iter().map(|server| server.stop(grace))).await;
}
