//! From `[server.swap]` to the rules of a server's swaps.

use super::file::{CanaryTable, SwapTable};
use crate::server::{CanaryRules, HeldUp, SwapPolicy, SwapRules};
use crate::span::Span;

pub(super) fn rules(
    table: &SwapTable,
    policy: Option<SwapPolicy>,
    held_up: Option<HeldUp>,
) -> SwapRules {
    let default = SwapRules::default();
    SwapRules {
        policy: policy.unwrap_or(default.policy),
        failures_min: table.failures_min.unwrap_or(default.failures_min),
        failures_share: table.failures_share.unwrap_or(default.failures_share),
        watch: table.watch.map_or(default.watch, |Span(watch)| watch),
        faults_min: table.faults_min.unwrap_or(default.faults_min),
        faults_share: table.faults_share.unwrap_or(default.faults_share),
        prepare: table.prepare.map_or(default.prepare, |Span(prepare)| prepare),
        held_up: held_up.unwrap_or(default.held_up),
        canary: canary(&table.canary, default.canary),
    }
}

fn canary(table: &CanaryTable, default: CanaryRules) -> CanaryRules {
    CanaryRules {
        share: table.share.unwrap_or(default.share),
        live: table.live.unwrap_or(default.live),
        duration: table.duration.map_or(default.duration, |Span(duration)| duration),
        sessions_min: table.sessions_min.unwrap_or(default.sessions_min),
        faults_min: table.faults_min.unwrap_or(default.faults_min),
        faults_share: table.faults_share.unwrap_or(default.faults_share),
        faults_ratio: table.faults_ratio.unwrap_or(default.faults_ratio),
        latency_ratio: table.latency_ratio.unwrap_or(default.latency_ratio),
        events_min: table.events_min.unwrap_or(default.events_min),
    }
}
