//! Last step of a swap: the current version is written to disk, so that a start after a crash uses
//! it.

use std::sync::Arc;

use super::change::{VersionChange, VersionedServer};
use super::env;
use super::report::{SwapError, SwapReport};
use super::state_dir::RecordError;
use crate::telemetry::NotRecorded;
use crate::work::WorkKind;

impl VersionChange {
    /// Records the current version, and completes the report.
    ///
    /// # Errors
    /// [`SwapError::NotRecorded`]; the version is current nevertheless.
    pub(super) async fn record(&self, mut report: SwapReport) -> Result<SwapReport, SwapError> {
        let recorded = record(&self.server).await;
        report.recorded = recorded.map_err(|error| {
            let current = self.server.rollout().procedure().plugin().label();
            let what = format!(
                "{current} is in force, and could not be recorded, so that a \
                restart may start another version: {error}"
            );
            SwapError::NotRecorded(what, error.refusal)
        })?;
        Ok(report)
    }

    /// Records the current version for callers without an operator: logs and counts a failure.
    pub(crate) async fn record_quietly(&self) {
        if let Err(error) = record(&self.server).await {
            NotRecorded { server: self.server.name(), error: &error.to_string() }
                .emit(self.server.counters());
        }
    }
}

/// Records the history. Returns false if there is no state directory, or if the server is
/// relinquished.
async fn record(server: &Arc<dyn VersionedServer>) -> Result<bool, RecordError> {
    let rollout = server.rollout();
    let Some(records) = rollout.records.clone().filter(|_| !rollout.is_relinquished()) else {
        return Ok(false);
    };
    let (written_by, records_of) = (Arc::clone(server), Arc::clone(&records));
    let write = move || {
        let (configured, revisions) = written_by.rollout().recordable();
        records.write_record(written_by.name(), configured, revisions)
    };
    match env::run_blocking(server.work(WorkKind::Urgent), write).await {
        Ok(written) => written.map(|()| true),
        Err(error) => Err(records_of.not_done(server.name(), &error)),
    }
}
