//! A session that exchanges messages at fixed times, and the latency of each.
//!
//! The session sends each message when it is due, even if the last answer is missing. Latency
//! counts from that moment, so a server that stands still shows in all messages that waited. The
//! connection stays open over all rounds.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;

use crate::load::lanes::forward;

/// Interval between two messages. The probes of a round send at evenly shifted times.
const SEND_EVERY: Duration = Duration::from_millis(1);
const MESSAGE_BYTES: usize = 64;
/// Time without an answer after which the session counts as lost.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest latency the histograms hold, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

/// One measured session.
pub(super) struct Probe {
    reads: TcpStream,
    writes: TcpStream,
    sent: u32,
}

impl Probe {
    pub(super) fn connect(address: SocketAddr) -> Result<Self> {
        let writes = TcpStream::connect(address)?;
        writes.set_nodelay(true)?;
        writes.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        writes.set_write_timeout(Some(ANSWER_TIME_MAX))?;
        Ok(Self { reads: writes.try_clone()?, writes, sent: 0 })
    }

    /// Exchanges messages for `time`. The first is due `offset` after all probes are ready.
    fn round(
        &mut self,
        time: Duration,
        offset: Duration,
        ready: &Barrier,
    ) -> Result<Histogram<u64>> {
        let count = (time.as_micros() / SEND_EVERY.as_micros()) as u32;
        let first = self.sent;
        let (reads, writes) = (&mut self.reads, &mut self.writes);
        let started = std::sync::OnceLock::new();
        let both = Barrier::new(2);
        let latency = thread::scope(|scope| -> Result<Histogram<u64>> {
            let reader = scope.spawn(|| -> Result<Histogram<u64>> {
                forward();
                both.wait();
                let (mut latency, mut message) =
                    (Histogram::new_with_max(LATENCY_MAX_US, 3)?, [0; MESSAGE_BYTES]);
                for number in 0..count {
                    reads.read_exact(&mut message).context("the neighbour lost its session")?;
                    let wanted = first.wrapping_add(number).to_le_bytes();
                    ensure!(message[MESSAGE_BYTES - 4..] == wanted, "an answer is missing");
                    let start: &Instant = started.get().context("it was sent")?;
                    let waited =
                        Instant::now().saturating_duration_since(*start + SEND_EVERY * number);
                    latency.saturating_record(waited.as_micros() as u64);
                }
                Ok(latency)
            });
            forward();
            both.wait();
            ready.wait();
            let start = *started.get_or_init(|| Instant::now() + Duration::from_millis(5) + offset);
            let mut message = [7; MESSAGE_BYTES];
            let sending = (0..count).try_for_each(|number| {
                thread::sleep(
                    (start + SEND_EVERY * number).saturating_duration_since(Instant::now()),
                );
                message[MESSAGE_BYTES - 4..]
                    .copy_from_slice(&first.wrapping_add(number).to_le_bytes());
                writes.write_all(&message)
            });
            let latency = reader.join().map_err(|_| anyhow!("the reader panicked"))?;
            sending.context("the neighbour lost its session")?;
            latency
        })?;
        self.sent = first.wrapping_add(count);
        Ok(latency)
    }
}

/// Runs one round of all probes at the same time.
pub(super) fn together(probes: &mut [Probe], time: Duration) -> Result<Vec<Histogram<u64>>> {
    let count = probes.len() as u32;
    let ready = Barrier::new(probes.len());
    thread::scope(|scope| {
        let rounds: Vec<_> = (0..)
            .zip(probes)
            .map(|(number, probe)| {
                let ready = &ready;
                scope.spawn(move || probe.round(time, SEND_EVERY * number / count, ready))
            })
            .collect();
        rounds
            .into_iter()
            .map(|round| round.join().map_err(|_| anyhow!("a probe panicked"))?)
            .collect()
    })
}

/// The latency of one session in each round, in microseconds.
pub(super) struct Latency {
    pub(super) quiet: Vec<Histogram<u64>>,
    pub(super) beside: Vec<Histogram<u64>>,
}

impl Latency {
    pub(super) const fn new() -> Self {
        Self { quiet: Vec::new(), beside: Vec::new() }
    }

    /// The medians over the rounds, quiet and beside the attack. A median hides rounds that the
    /// machine disturbed.
    pub(super) fn at(&self, share: f64) -> (u64, u64) {
        let median = |rounds: &[Histogram<u64>]| {
            let mut seen: Vec<_> =
                rounds.iter().map(|round| round.value_at_quantile(share)).collect();
            seen.sort_unstable();
            seen.get(seen.len() / 2).copied().unwrap_or(0)
        };
        (median(&self.quiet), median(&self.beside))
    }

    /// The ratio of the latency beside the attack to the quiet one.
    pub(super) fn ratio(&self, share: f64) -> f64 {
        let (quiet, beside) = self.at(share);
        beside as f64 / quiet.max(1) as f64
    }

    pub(super) fn change(&self, share: f64) -> String {
        let (quiet, beside) = self.at(share);
        format!("{quiet} > {beside}")
    }
}
