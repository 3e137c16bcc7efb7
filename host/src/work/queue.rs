//! A queue in which tenants take turns. Pure: no thread and no clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Tenants that are remembered for their count of refusals alone.
const IDLE_MAX: usize = 1_024;

/// Jobs of several tenants, with a limit on those of one tenant that run.
pub(super) struct TenantQueue<J> {
    lines: BTreeMap<Arc<str>, Line<J>>,
    /// Tenants with jobs that wait, in the order in which they are asked.
    turns: VecDeque<Arc<str>>,
    running_max: usize,
    last: u64,
}

struct Line<J> {
    waiting: VecDeque<(u64, J)>,
    running: usize,
    refused: u64,
}

impl<J> Default for Line<J> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), running: 0, refused: 0 }
    }
}

/// One tenant's line at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueStatus {
    pub(super) waiting: usize,
    pub(super) running: usize,
    pub(super) refused: u64,
}

impl<J> TenantQueue<J> {
    /// A queue that lets so many jobs of one tenant run at a time.
    pub(super) fn new(running_max: usize) -> Self {
        Self { lines: BTreeMap::new(), turns: VecDeque::new(), running_max, last: 0 }
    }

    /// Adds a job, unless `most` of the tenant wait: then the error is how many do. The number of
    /// the job.
    pub(super) fn put(&mut self, tenant: &Arc<str>, job: J, most: usize) -> Result<u64, usize> {
        let line = self.lines.entry(Arc::clone(tenant)).or_default();
        if line.waiting.len() >= most {
            line.refused += 1;
            return Err(line.waiting.len());
        }
        self.last += 1;
        if line.waiting.is_empty() {
            self.turns.push_back(Arc::clone(tenant));
        }
        line.waiting.push_back((self.last, job));
        Ok(self.last)
    }

    /// The next job that may run, and whose it is. [`TenantQueue::done`] is to follow.
    pub(super) fn take(&mut self) -> Option<(Arc<str>, J)> {
        let free = |tenant: &Arc<str>| {
            self.lines.get(tenant).is_some_and(|line| line.running < self.running_max)
        };
        let at = self.turns.iter().position(free)?;
        let tenant = self.turns.remove(at)?;
        let line = self.lines.get_mut(&tenant)?;
        let (_, job) = line.waiting.pop_front()?;
        line.running += 1;
        if !line.waiting.is_empty() {
            self.turns.push_back(Arc::clone(&tenant));
        }
        Some((tenant, job))
    }

    /// A job of this tenant has ended.
    pub(super) fn done(&mut self, tenant: &Arc<str>) {
        if let Some(line) = self.lines.get_mut(tenant) {
            line.running = line.running.saturating_sub(1);
        }
        self.forget(tenant);
    }

    /// Takes out a job that waits. `None` where it does not wait any more.
    pub(super) fn withdraw(&mut self, tenant: &Arc<str>, number: u64) -> Option<J> {
        let line = self.lines.get_mut(tenant)?;
        let at = line.waiting.iter().position(|(waiting, _)| *waiting == number)?;
        let (_, job) = line.waiting.remove(at)?;
        if line.waiting.is_empty() {
            self.turns.retain(|waiting| waiting != tenant);
        }
        self.forget(tenant);
        Some(job)
    }

    /// Takes out all jobs that wait.
    pub(super) fn clear(&mut self) -> Vec<J> {
        self.turns.clear();
        let jobs =
            |line: &mut Line<J>| std::mem::take(&mut line.waiting).into_iter().map(|(_, job)| job);
        self.lines.values_mut().flat_map(jobs).collect()
    }

    /// Every tenant that has or had something to do.
    pub(super) fn seen(&self) -> Vec<(Arc<str>, QueueStatus)> {
        let seen = |(tenant, line): (&Arc<str>, &Line<J>)| {
            let (waiting, running, refused) = (line.waiting.len(), line.running, line.refused);
            (Arc::clone(tenant), QueueStatus { waiting, running, refused })
        };
        self.lines.iter().map(seen).collect()
    }

    /// Drops the line of a tenant with nothing to do. One with refusals is kept while there is
    /// room.
    fn forget(&mut self, tenant: &Arc<str>) {
        let idle = |line: &Line<J>| line.waiting.is_empty() && line.running == 0;
        let many = self.lines.len() > IDLE_MAX;
        if self.lines.get(tenant).is_some_and(|line| idle(line) && (line.refused == 0 || many)) {
            self.lines.remove(tenant);
        }
    }
}
