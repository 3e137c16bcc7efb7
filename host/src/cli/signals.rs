//! The signals that steer the process.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::server::{FAREWELL_MAX, ServerHandle, Servers};

/// SIGINT, SIGTERM, SIGQUIT and SIGHUP.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hang_up: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// SIGTERM: finish, take no more, and leave to the next process what can wait for it.
    Leave,
    /// SIGQUIT: finish, take no more.
    Drain,
    /// SIGINT: end.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
    /// No signal: another process serves, and what is left may go on for so long.
    Replaced(Duration),
}

impl Signals {
    /// Must be called inside a runtime.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one. Dropping the future is safe.
    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.terminate.recv() => Request::Leave,
            _ = self.quit.recv() => Request::Drain,
            _ = self.hang_up.recv() => Request::Reload,
        }
    }

    /// Waits for one that ends the process. Dropping the future is safe.
    pub(super) async fn end(&mut self) -> Request {
        loop {
            match self.next().await {
                Request::Reload => {}
                wish => return wish,
            }
        }
    }

    /// Ends the servers as wished: a drain lets sessions finish until `grace` is over; another
    /// signal cuts that short, and one more cuts off what is left.
    pub(super) async fn finish(&mut self, wish: Request, servers: &Servers, grace: Duration) {
        if wish != Request::Stop {
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

    /// The same for a single server that nobody else has.
    pub(super) async fn stop(&mut self, server: &ServerHandle, grace: Duration) {
        tokio::select! {
            () = server.stop(grace) => {}
            _ = self.end() => server.stop(Duration::ZERO).await,
        }
    }
}
