//! Views of servers and sessions in the API.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::server::{
    self, HostNotice, NewConnections, ServerHandle, SessionView, SwapProgress, SwapReport,
};
use crate::servers::Reloaded;
use crate::telemetry::{Latencies, Snapshot};

#[derive(Serialize)]
pub(super) struct Server {
    name: String,
    address: String,
    status: &'static str,
    /// Why the server cannot listen. `None` if it can.
    failure: Option<String>,
    /// What happens to new connections. `None` if the server is not suspended.
    #[serde(rename = "newcomers")]
    new_connections: Option<&'static str>,
    locked: bool,
    breaker: &'static str,
    uptime_seconds: f64,
    clients: usize,
    sessions: u32,
    priority: &'static str,
    plugin: Plugin,
    throttle: Throttle,
    data: String,
    counters: Counters,
    latency_seconds: BTreeMap<&'static str, Percentiles>,
}

#[derive(Serialize)]
struct Plugin {
    label: String,
    digest: String,
    file: String,
}

#[derive(Serialize)]
pub(super) struct Throttle {
    max_clients: usize,
    max_per_address: usize,
    accept_interval: String,
    rate_per_address: f64,
    burst_per_address: u32,
}

#[derive(Serialize)]
struct Counters {
    accepted: u64,
    events: u64,
    bytes_in: u64,
    bytes_out: u64,
    fuel: u64,
    cpu_seconds: f64,
    log_lines_dropped: u64,
    refused: BTreeMap<String, u64>,
    handshakes_failed: BTreeMap<String, u64>,
    ended: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Percentiles {
    count: u64,
    p50: f64,
    p99: f64,
    p999: f64,
}

impl Server {
    pub(super) fn of(server: &ServerHandle) -> Self {
        let (counters, plugin) = (server.counters(), server.plugin());
        let latencies = counters.latencies();
        let events = latencies.iter().map(|(_, seen)| seen.count()).sum();
        let latencies = latencies.into_iter().filter(|(_, seen)| seen.count() > 0);
        Self {
            name: server.name().to_owned(),
            address: server.address().to_string(),
            status: server.status().name(),
            failure: server.failure(),
            new_connections: server.new_connections().map(|treated| match treated {
                NewConnections::Queue => "queue",
                NewConnections::Reject => "reject",
            }),
            locked: server.is_locked(),
            breaker: server.breaker().name(),
            uptime_seconds: server.uptime().as_secs_f64(),
            clients: server.clients(),
            sessions: server.session_count(),
            priority: server.priority().name(),
            plugin: Plugin {
                label: plugin.label(),
                digest: plugin.digest().to_string(),
                file: plugin.file().display().to_string(),
            },
            throttle: Throttle::of(server),
            data: server.data(),
            counters: Counters::of(counters, events),
            latency_seconds: latencies
                .map(|(class, seen)| (class.name(), Percentiles::of(&seen)))
                .collect(),
        }
    }
}

impl Throttle {
    pub(super) fn of(server: &ServerHandle) -> Self {
        let throttle = server.throttle();
        Self {
            max_clients: throttle.max_clients,
            max_per_address: throttle.max_per_address,
            accept_interval: humantime::format_duration(throttle.accept_interval).to_string(),
            rate_per_address: throttle.rate_per_address,
            burst_per_address: throttle.burst_per_address,
        }
    }
}

impl Counters {
    fn of(snapshot: Snapshot, events: u64) -> Self {
        Self {
            accepted: snapshot.accepted,
            // Unlike the sums below, this includes the events of live sessions.
            events,
            bytes_in: snapshot.spent.bytes_in,
            bytes_out: snapshot.spent.bytes_out,
            fuel: snapshot.spent.fuel,
            cpu_seconds: snapshot.spent.cpu.as_secs_f64(),
            log_lines_dropped: snapshot.lines_dropped,
            refused: snapshot.refused,
            handshakes_failed: snapshot.handshakes_failed,
            ended: snapshot.ended,
            faults: snapshot.faults,
        }
    }
}

impl Percentiles {
    fn of(seen: &Latencies) -> Self {
        let at = |share| seen.quantile(share).as_ref().map_or(0.0, Duration::as_secs_f64);
        Self { count: seen.count(), p50: at(0.5), p99: at(0.99), p999: at(0.999) }
    }
}

#[derive(Serialize)]
pub(super) struct Session {
    id: u64,
    name: Option<String>,
    peer: String,
    local: String,
    tls: Option<Tls>,
    plugin: String,
    priority: &'static str,
    lane: &'static str,
    event: Option<&'static str>,
    asleep: bool,
    age_seconds: f64,
    idle_seconds: f64,
    cpu_seconds: f64,
    bytes_in: u64,
    bytes_out: u64,
    queued_bytes: usize,
    events: u64,
    fuel: u64,
    peak_fuel: u64,
    budget: Budget,
    memory_bytes: u64,
}

#[derive(Serialize)]
struct Budget {
    fuel: u64,
    cpu_seconds: f64,
    wall_seconds: f64,
}

#[derive(Serialize)]
struct Tls {
    protocol: String,
    cipher_suite: String,
    server_name: Option<String>,
    alpn: Option<String>,
    client_subject: Option<String>,
}

impl Session {
    pub(super) fn of(session: SessionView) -> Self {
        let SessionView { info, name, plugin, stats } = session;
        Self {
            id: info.id,
            name,
            peer: info.peer.to_string(),
            local: info.local.to_string(),
            tls: info.tls.map(|tls| Tls {
                protocol: tls.protocol,
                cipher_suite: tls.cipher_suite,
                server_name: tls.server_name,
                alpn: tls.alpn,
                client_subject: tls.client_subject,
            }),
            plugin: plugin.to_string(),
            priority: stats.priority.name(),
            lane: stats.lane.name(),
            event: stats.event,
            asleep: stats.asleep,
            age_seconds: stats.age.as_secs_f64(),
            idle_seconds: stats.idle.as_secs_f64(),
            cpu_seconds: stats.cpu.as_secs_f64(),
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
            queued_bytes: stats.queued_bytes,
            events: stats.events,
            fuel: stats.usage.fuel,
            peak_fuel: stats.peak_fuel,
            budget: Budget {
                fuel: stats.budget.fuel,
                cpu_seconds: stats.budget.cpu.as_secs_f64(),
                wall_seconds: stats.budget.wall.as_secs_f64(),
            },
            memory_bytes: stats.usage.memory_bytes,
        }
    }
}

#[derive(Serialize)]
pub(super) struct Notice {
    server: String,
    number: u64,
    occurrence: &'static str,
    status: &'static str,
}

impl Notice {
    pub(super) fn of(notice: &HostNotice) -> Self {
        Self {
            server: notice.server.to_string(),
            number: notice.notice.number,
            occurrence: notice.notice.occurrence.name(),
            status: notice.notice.status.name(),
        }
    }
}

/// What happened to live sessions in a swap.
#[derive(Serialize)]
pub(super) struct Swap {
    from: String,
    to: String,
    #[serde(rename = "generation")]
    revision: u64,
    moved: usize,
    stayed: BTreeMap<String, usize>,
    lost: BTreeMap<String, usize>,
    rolled_back: bool,
    ended: usize,
    longest_pause_seconds: f64,
    pause_p99_seconds: f64,
    recorded: bool,
}

impl Swap {
    pub(super) fn of(report: SwapReport) -> Self {
        let [longest_pause_seconds, pause_p99_seconds] =
            [1.0, 0.99].map(|share| report.pause(share).as_secs_f64());
        let SwapReport {
            from,
            to,
            revision,
            moved,
            stayed,
            lost,
            rolled_back,
            ended,
            recorded,
            ..
        } = report;
        Self {
            from,
            to,
            revision,
            moved,
            stayed,
            lost,
            rolled_back,
            ended,
            longest_pause_seconds,
            pause_p99_seconds,
            recorded,
        }
    }
}

/// The progress of a swap. `None` if none is under way.
#[derive(Serialize)]
pub(super) struct UnderWay {
    under_way: Option<Progress>,
}

#[derive(Serialize)]
struct Progress {
    to: String,
    stage: &'static str,
    of: usize,
    moved: usize,
    stayed: usize,
    ended: usize,
}

impl UnderWay {
    pub(super) fn of(seen: Option<SwapProgress>) -> Self {
        let progress = |SwapProgress { to, phase, of, moved, stayed, ended }| {
            let stage = phase.name();
            Progress { to, stage, of, moved, stayed, ended }
        };
        Self { under_way: seen.map(progress) }
    }
}

/// The versions that a server has had.
#[derive(Serialize)]
pub(super) struct History {
    /// Whether the versions are recorded on disk.
    recorded: bool,
    canary: Option<Canary>,
    #[serde(rename = "generations")]
    revisions: Vec<Revision>,
}

#[derive(Serialize)]
struct Canary {
    #[serde(rename = "generation")]
    revision: u64,
    plugin: String,
    share: f64,
    sessions: u64,
    faulted: u64,
    left_seconds: f64,
}

#[derive(Serialize)]
struct Revision {
    #[serde(flatten)]
    revision: server::Revision,
    sessions: usize,
}

impl History {
    pub(super) fn of(server: &ServerHandle) -> Self {
        let canary = server.canary_seen().map(|seen| Canary {
            revision: seen.revision,
            plugin: seen.plugin,
            share: seen.share,
            sessions: seen.sessions,
            faulted: seen.faulted,
            left_seconds: seen.left.as_secs_f64(),
        });
        let with = |(revision, sessions)| Revision { revision, sessions };
        let revisions = server.revisions().into_iter().map(with).collect();
        Self { recorded: server.keeps_records(), canary, revisions }
    }
}

#[derive(Serialize)]
pub(super) struct Reload {
    started: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
    not_listening: Vec<String>,
}

impl Reload {
    pub(super) fn of(report: Reloaded) -> Self {
        let Reloaded { started, changed, removed, not_listening } = report;
        Self { started, changed, removed, not_listening }
    }
}
