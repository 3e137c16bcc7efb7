//! The limits of the gate that may change while the server runs.

use std::time::Duration;

/// Longest interval between accepts. A longer one would fill the backlog and look like an outage.
const ACCEPT_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Greatest rate and burst of one address.
const RATE_MAX: f64 = 1_000_000.0;

/// How many clients a server takes, and how fast. Zero is no limit, and the default.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Throttle {
    /// Clients at a time.
    pub max_clients: usize,
    /// Clients of one address at a time. An IPv4 address counts by itself, in any notation; an IPv6
    /// address counts by its /64 network.
    pub max_per_address: usize,
    /// Least time between two accepts, up to a minute. New connections wait in the backlog; none is
    /// turned away for it.
    pub accept_interval: Duration,
    /// Sessions that one address may start per second, up to a million. Beyond it new connections
    /// are turned away.
    pub rate_per_address: f64,
    /// Sessions that one address may start at once after a pause. Zero: as many as in a second, and
    /// at least one.
    pub burst_per_address: u32,
}

/// A change of some limits; `None` leaves a limit as it is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Change {
    /// See [`Throttle::max_clients`].
    pub max_clients: Option<usize>,
    /// See [`Throttle::max_per_address`].
    pub max_per_address: Option<usize>,
    /// See [`Throttle::accept_interval`].
    pub accept_interval: Option<Duration>,
    /// See [`Throttle::rate_per_address`].
    pub rate_per_address: Option<f64>,
    /// See [`Throttle::burst_per_address`].
    pub burst_per_address: Option<u32>,
}

/// A limit out of its range. The operator's doing; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{limit}`: expected {expected}, found {found}")]
pub struct ThrottleError {
    /// The limit's name.
    pub limit: &'static str,
    /// The range of the limit.
    pub expected: &'static str,
    /// The value found.
    pub found: String,
}

impl From<Throttle> for Change {
    /// Changes all limits to these.
    fn from(throttle: Throttle) -> Self {
        Self {
            max_clients: Some(throttle.max_clients),
            max_per_address: Some(throttle.max_per_address),
            accept_interval: Some(throttle.accept_interval),
            rate_per_address: Some(throttle.rate_per_address),
            burst_per_address: Some(throttle.burst_per_address),
        }
    }
}

impl ThrottleError {
    /// Returns the expected range and the value found, without the limit's name.
    #[must_use]
    pub fn problem(&self) -> String {
        format!("expected {}, found {}", self.expected, self.found)
    }
}

impl Throttle {
    /// Returns these limits after a change.
    ///
    /// # Errors
    /// [`ThrottleError`], naming the limit.
    pub fn changed(mut self, change: Change) -> Result<Self, ThrottleError> {
        self.max_clients = change.max_clients.unwrap_or(self.max_clients);
        self.max_per_address = change.max_per_address.unwrap_or(self.max_per_address);
        self.accept_interval = change.accept_interval.unwrap_or(self.accept_interval);
        self.rate_per_address =
            change.rate_per_address.map_or(self.rate_per_address, |rate| rate + 0.0);
        self.burst_per_address = change.burst_per_address.unwrap_or(self.burst_per_address);
        self.check()?;
        Ok(self)
    }

    /// Checks that each limit is in its range.
    ///
    /// # Errors
    /// [`ThrottleError`], naming the limit.
    pub fn check(&self) -> Result<(), ThrottleError> {
        if self.accept_interval > ACCEPT_INTERVAL_MAX {
            let found = format!("{:?}", self.accept_interval);
            return Err(ThrottleError {
                limit: "accept_interval",
                expected: "at most a minute",
                found,
            });
        }
        if !(0.0..=RATE_MAX).contains(&self.rate_per_address) {
            let found = self.rate_per_address.to_string();
            return Err(ThrottleError {
                limit: "rate_per_address",
                expected: "0 to 1,000,000 per second",
                found,
            });
        }
        Ok(())
    }

    /// Returns the burst in force.
    pub(super) fn burst(&self) -> f64 {
        match self.burst_per_address {
            0 => self.rate_per_address.max(1.0),
            burst => f64::from(burst),
        }
    }
}
