//! `/metrics`: OpenMetrics text. Labels are servers, plugins, classes and reasons, never a session.
//!
//! The names here lack the prefix `wharf_` and the suffix of a type or unit, such as `_total`,
//! `_bytes`, `_seconds` or `_info`: `refused` is `wharf_refused_total`.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::state::Shared;
use crate::sched::RunQueueStatus;
use crate::server::{Host, PoolStatus, ServerHandle, Status, TenantStatus};
use crate::servers::Servers;
use crate::telemetry::{ClassStatus, RevisionMetricsStatus, Snapshot, Spent, dropped_lines};
use crate::work::WorkStatus;

pub(super) async fn scrape(State(shared): State<Arc<Shared>>) -> Response {
    let mut registry = Registry::with_prefix("wharf");
    registry.register_collector(Box::new(AllServers(Arc::clone(&shared.servers))));
    registry.register_collector(Box::new(Queues(Arc::clone(&shared))));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

struct AllServers(Arc<Servers>);

impl fmt::Debug for AllServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AllServers")
    }
}

type Now = fn(&ServerHandle) -> i64;
type Sum = fn(&Snapshot) -> u64;
type SumSpent = fn(&Spent) -> f64;
type ClassLabels = fn(&ClassStatus) -> &std::collections::BTreeMap<String, u64>;
type OfRunQueue = fn(&RunQueueStatus) -> u64;
type OfWork = fn(&WorkStatus) -> u64;
type OfPool = fn(&PoolStatus) -> u64;
type OfTenant = fn(&TenantStatus) -> u64;
type ReasonLabels = fn(&Snapshot) -> &std::collections::BTreeMap<String, u64>;

impl Collector for AllServers {
    fn encode(&self, mut to: DescriptorEncoder) -> Result<(), fmt::Error> {
        let servers: Vec<_> =
            self.0.all().into_iter().map(|server| (server.counters(), server)).collect();

        let mut status = to.encode_descriptor(
            "server_status",
            "1 for what the server is doing",
            None,
            MetricType::Gauge,
        )?;
        for (_, server) in &servers {
            let now = server.status();
            for one in Status::ALL {
                let labels = [("server", server.name()), ("status", one.name())];
                status.encode_family(&labels)?.encode_gauge(&i64::from(now == one))?;
            }
        }
        let help = "Lines of the log that its reader was too slow for";
        let mut dropped = to.encode_descriptor("log_dropped", help, None, MetricType::Counter)?;
        dropped.encode_counter::<NoLabelSet, _, u64>(&(dropped_lines() as u64), None)?;
        let lanes = self.0.host().run_queues();
        let mut waiting = to.encode_descriptor(
            "turns_waiting",
            "Sessions in line for a turn",
            None,
            MetricType::Gauge,
        )?;
        for lane in &lanes {
            waiting
                .encode_family(&[("lane", lane.lane.name())])?
                .encode_gauge(&(lane.waiting as i64))?;
        }
        let turns: [(&str, &str, OfRunQueue); 2] = [
            ("turns", "Turns given to sessions that had to get in line", |seen| seen.given),
            ("turns_taken_over", "Of those, turns on another thread", |seen| seen.taken_over),
        ];
        for (name, help, value) in turns {
            let mut counter = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            for lane in &lanes {
                let labels = [("lane", lane.lane.name())];
                counter
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, u64>(&value(lane), None)?;
            }
        }
        of_pools(&mut to, self.0.host())?;
        of_tenants(&mut to, &self.0.host().tenants())?;
        let mut info =
            to.encode_descriptor("plugin", "What new sessions get", None, MetricType::Info)?;
        for (_, server) in &servers {
            let (label, digest) = (server.plugin().label(), server.plugin().digest().to_string());
            let (plugin, version) = label.rsplit_once(' ').unwrap_or((&label, ""));
            let labels = [
                ("server", server.name()),
                ("plugin", plugin),
                ("version", version),
                ("digest", &digest),
            ];
            info.encode_info(&labels)?;
        }
        let gauges: [(&str, &str, Now); 2] = [
            ("clients", "Clients that hold a place now", |server| server.clients() as i64),
            ("sessions", "Sessions that are not ending", |server| {
                i64::from(server.session_count())
            }),
        ];
        for (name, help, value) in gauges {
            let mut gauge = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (_, server) in &servers {
                gauge.encode_family(&[("server", server.name())])?.encode_gauge(&value(server))?;
            }
        }
        let sums: [(&str, &str, Sum); 2] = [
            ("accepted", "Clients accepted, refused ones included", |seen| seen.accepted),
            ("log_lines_dropped", "Lines of plugins over the limit", |seen| seen.lines_dropped),
        ];
        for (name, help, value) in sums {
            let mut counter = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (seen, server) in &servers {
                counter
                    .encode_family(&[("server", server.name())])?
                    .encode_counter::<NoLabelSet, _, u64>(&value(seen), None)?;
            }
        }
        let reasons: [(&str, &str, ReasonLabels); 3] = [
            ("refused", "New connections turned away", |seen| &seen.refused),
            (
                "handshakes_failed",
                "Clients that got no session because of their handshake",
                |seen| &seen.handshakes_failed,
            ),
            ("notices", "What happened to the server as a whole", |seen| &seen.notices),
        ];
        for (name, help, values) in reasons {
            let mut counter = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (seen, server) in &servers {
                for (reason, count) in values(seen) {
                    let labels = [("server", server.name()), ("reason", reason.as_str())];
                    counter
                        .encode_family(&labels)?
                        .encode_counter::<NoLabelSet, _, u64>(count, None)?;
                }
            }
        }
        of_changes(&mut to, &servers)?;
        let revisions: Vec<_> = servers
            .iter()
            .flat_map(|(seen, server)| {
                seen.revisions
                    .iter()
                    .map(|revision| (RevisionLabels::of(server.name(), revision), revision))
            })
            .collect();
        of_revisions(&mut to, &revisions)
    }
}

/// Calls and blocking steps of the control plane that wait or run, by tenant.
struct Queues(Arc<Shared>);

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queues")
    }
}

impl Collector for Queues {
    fn encode(&self, mut to: DescriptorEncoder) -> Result<(), fmt::Error> {
        let (calls, work) = (self.0.waiting.seen(), self.0.servers.host().work_seen());
        let help = "Calls of the control API that take their time, under way now";
        let mut gauge = to.encode_descriptor("control_calls", help, None, MetricType::Gauge)?;
        for (tenant, class, calls) in &calls {
            let labels = [("tenant", &**tenant), ("class", class.name())];
            gauge.encode_family(&labels)?.encode_gauge(&(calls.now as i64))?;
        }
        let help = "Such calls refused because the tenant had too many under way";
        let mut counter =
            to.encode_descriptor("control_calls_refused", help, None, MetricType::Counter)?;
        for (tenant, class, calls) in &calls {
            let labels = [("tenant", &**tenant), ("class", class.name())];
            counter
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, u64>(&calls.refused, None)?;
        }
        let gauges: [(&str, &str, OfWork); 2] = [
            (
                "work_waiting",
                "Blocking steps of the control plane that wait for a thread",
                |seen| seen.waiting as u64,
            ),
            ("work_running", "Blocking steps of the control plane that have a thread", |seen| {
                seen.running as u64
            }),
        ];
        for (name, help, value) in gauges {
            let mut gauge = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for seen in &work {
                let labels = [("tenant", &*seen.tenant), ("kind", seen.kind.name())];
                gauge.encode_family(&labels)?.encode_gauge(&(value(seen) as i64))?;
            }
        }
        let help = "Blocking steps refused because too many of the tenant waited";
        let mut counter = to.encode_descriptor("work_refused", help, None, MetricType::Counter)?;
        for seen in &work {
            let labels = [("tenant", &*seen.tenant), ("kind", seen.kind.name())];
            counter
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, u64>(&seen.refused, None)?;
        }
        Ok(())
    }
}

/// Encodes how many changes of each server's version were refused.
fn of_changes(
    to: &mut DescriptorEncoder,
    servers: &[(Snapshot, Arc<ServerHandle>)],
) -> Result<(), fmt::Error> {
    let help = "Changes of the version refused because too many waited";
    let mut counter =
        to.encode_descriptor("version_changes_refused", help, None, MetricType::Counter)?;
    for (_, server) in servers {
        counter
            .encode_family(&[("server", server.name())])?
            .encode_counter::<NoLabelSet, _, u64>(&server.changes_refused(), None)?;
    }
    Ok(())
}

/// Encodes the use and the size of each pool, and how often a pool had no room.
fn of_pools(to: &mut DescriptorEncoder, host: &Host) -> Result<(), fmt::Error> {
    let gauges: [(&str, &str, OfPool); 2] = [
        ("pool_used", "What instances and sessions have of a pool", |seen| seen.used),
        ("pool_total", "What a pool holds", |seen| seen.total),
    ];
    for (name, help, value) in gauges {
        let mut gauge = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for seen in host.pools() {
            gauge.encode_family(&[("pool", seen.name)])?.encode_gauge(&(value(&seen) as i64))?;
        }
    }
    let help = "Sessions and instances for which there was no room, by what was short";
    let mut counter = to.encode_descriptor("pool_refused", help, None, MetricType::Counter)?;
    for (pool, value) in host.pool_refusals() {
        counter
            .encode_family(&[("pool", pool)])?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
    }
    Ok(())
}

/// Encodes what the servers of each tenant use together.
fn of_tenants(to: &mut DescriptorEncoder, tenants: &[TenantStatus]) -> Result<(), fmt::Error> {
    let gauges: [(&str, &str, Option<&Unit>, OfTenant); 3] = [
        ("tenant_clients", "Clients of a tenant's servers", None, |seen| seen.clients as u64),
        (
            "tenant_memory",
            "Memory of a tenant's instances, mail and send buffers",
            Some(&Unit::Bytes),
            |seen| seen.quota.memory_bytes as u64,
        ),
        ("tenant_mail", "Mail of a tenant's sessions that waits", Some(&Unit::Bytes), |seen| {
            seen.quota.mail_bytes as u64
        }),
    ];
    for (name, help, unit, value) in gauges {
        let mut gauge = to.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for tenant in tenants {
            gauge
                .encode_family(&[("tenant", &*tenant.name)])?
                .encode_gauge(&(value(tenant) as i64))?;
        }
    }
    let counters: [(&str, &str, OfTenant); 4] = [
        ("tenant_cpu_waits", "Events that waited for their tenant's share of CPU time", |seen| {
            seen.quota.cpu_waits
        }),
        (
            "tenant_bytes_waits",
            "Reads and writes that waited for their tenant's share of bytes",
            |seen| seen.quota.bytes_waits,
        ),
        ("tenant_memory_refused", "Growths of memory over the tenant's share", |seen| {
            seen.quota.memory_refused
        }),
        ("tenant_mail_refused", "Mail over the tenant's share of mail or of memory", |seen| {
            seen.quota.mail_refused
        }),
    ];
    for (name, help, value) in counters {
        let mut counter = to.encode_descriptor(name, help, None, MetricType::Counter)?;
        for tenant in tenants {
            let labels = [("tenant", &*tenant.name)];
            counter
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, u64>(&value(tenant), None)?;
        }
    }
    Ok(())
}

/// The labels of one version of a server's plugin.
struct RevisionLabels<'a> {
    server: &'a str,
    plugin: &'a str,
    version: &'a str,
}

impl<'a> RevisionLabels<'a> {
    fn of(server: &'a str, revision: &'a RevisionMetricsStatus) -> Self {
        let (plugin, version) = revision.plugin.rsplit_once(' ').unwrap_or((&revision.plugin, ""));
        Self { server, plugin, version }
    }

    fn labels(&self) -> [(&'a str, &'a str); 3] {
        [("server", self.server), ("plugin", self.plugin), ("version", self.version)]
    }
}

/// Encodes the counters of each version of a plugin.
fn of_revisions(
    to: &mut DescriptorEncoder,
    revisions: &[(RevisionLabels, &RevisionMetricsStatus)],
) -> Result<(), fmt::Error> {
    let sums: [(&str, &str, Option<&Unit>, SumSpent); 4] = [
        ("received", "From peers of ended sessions", Some(&Unit::Bytes), |spent| {
            spent.bytes_in as f64
        }),
        ("sent", "To peers of ended sessions", Some(&Unit::Bytes), |spent| spent.bytes_out as f64),
        ("fuel", "Fuel of ended sessions", None, |spent| spent.fuel as f64),
        ("cpu", "CPU time of events of ended sessions", Some(&Unit::Seconds), |spent| {
            spent.cpu.as_secs_f64()
        }),
    ];
    for (name, help, unit, value) in sums {
        let mut counter = to.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (revision, seen) in revisions {
            let value = value(&seen.spent);
            counter
                .encode_family(&revision.labels())?
                .encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
    }
    let reasons: [(&str, &str, ClassLabels); 2] = [
        ("sessions_ended", "Sessions that ended", |class| &class.ended),
        ("faults", "Events that failed", |class| &class.faults),
    ];
    for (name, help, values) in reasons {
        let mut counter = to.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (revision, seen) in revisions {
            for class in &seen.classes {
                for (reason, count) in values(class) {
                    let [server, plugin, version] = revision.labels();
                    let labels = [
                        server,
                        plugin,
                        version,
                        ("class", class.class.name()),
                        ("reason", reason.as_str()),
                    ];
                    counter
                        .encode_family(&labels)?
                        .encode_counter::<NoLabelSet, _, u64>(count, None)?;
                }
            }
        }
    }
    let help = "How long events took, waits included";
    let mut events =
        to.encode_descriptor("event_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (revision, seen) in revisions {
        for class in seen.classes.iter().filter(|class| class.latencies.count() > 0) {
            let (took, mut below) = (&class.latencies, 0);
            // The encoder adds up the buckets, so each gets only its own count.
            let apart = |(end, sum)| (end, sum - std::mem::replace(&mut below, sum));
            let mut buckets: Vec<_> = took.doublings().map(apart).collect();
            buckets.push((f64::INFINITY, took.count() - below));
            let [server, plugin, version] = revision.labels();
            let labels = [server, plugin, version, ("class", class.class.name())];
            let (sum, count) = (took.total.as_secs_f64(), took.count());
            events
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
    }
    Ok(())
}
