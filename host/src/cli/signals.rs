//! The signals that end the process or reload its configuration.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::server::{FAREWELL_MAX, ServerHandle};
use crate::servers::Servers;

/// Listeners for SIGINT, SIGTERM, SIGQUIT and SIGHUP.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hang_up: Signal,
}

/// A request to the process, from a signal or from an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// SIGTERM: accept no connections, detach the sessions that can wait for the next process, and
    /// drain the others.
    Leave,
    /// SIGQUIT: accept no connections and drain the sessions.
    Drain,
    /// SIGINT: end the sessions gracefully, without a drain.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
    /// No signal: a new process serves, and the remaining sessions may go on for this time.
    Replaced(Duration),
}

impl Signals {
    /// Starts to listen for the signals. Must be called inside a runtime.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal. Cancel safe.
    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.terminate.recv() => Request::Leave,
            _ = self.quit.recv() => Request::Drain,
            _ = self.hang_up.recv() => Request::Reload,
        }
    }

    /// Waits for a signal that ends the process. Cancel safe.
    pub(super) async fn end(&mut self) -> Request {
        loop {
            match self.next().await {
                Request::Reload => {}
                request => return request,
            }
        }
    }

    /// Ends the servers as requested. A drain lets sessions finish until `grace` is over. Another
    /// signal ends the drain, and one more cuts off the remaining sessions.
    pub(super) async fn finish(&mut self, request: Request, servers: &Servers, grace: Duration) {
        if request != Request::Stop {
            tracing::info!(?grace, "draining; another signal stops");
            tokio::select! {
                () = servers.drain(grace) => {}
                _ = self.end() => {}
            }
        }
        tracing::info!(grace = ?FAREWELL_MAX, "stopping; another signal stops at once");
        tokio::select! {
            () = servers.stop(FAREWELL_MAX) => {}
            _ = self.end() => servers.stop(Duration::ZERO).await,
        }
    }

    /// Stops a single server. A signal cuts off its remaining sessions.
    pub(super) async fn stop(&mut self, server: &ServerHandle, grace: Duration) {
        tokio::select! {
            () = server.stop(grace) => {}
            _ = self.end() => server.stop(Duration::ZERO).await,
        }
    }
}
