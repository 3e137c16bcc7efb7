//! A queue that alternates between tenants. Pure: no thread and no clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Idle tenants that are remembered for their count of refusals alone.
const IDLE_MAX: usize = 1_024;

/// Jobs of several tenants, with a limit on the running jobs of one tenant.
pub(super) struct TenantQueue<J> {
    jobs_of: BTreeMap<Arc<str>, Jobs<J>>,
    /// Tenants with waiting jobs, in the order in which the queue serves them.
    order: VecDeque<Arc<str>>,
    running_max: usize,
    last: u64,
}

struct Jobs<J> {
    waiting: VecDeque<(u64, J)>,
    running: usize,
    refused: u64,
}

impl<J> Default for Jobs<J> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), running: 0, refused: 0 }
    }
}

/// One tenant's jobs at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueStatus {
    pub(super) waiting: usize,
    pub(super) running: usize,
    pub(super) refused: u64,
}

impl<J> TenantQueue<J> {
    /// Creates a queue that lets this many jobs of one tenant run at a time.
    pub(super) fn new(running_max: usize) -> Self {
        Self { jobs_of: BTreeMap::new(), order: VecDeque::new(), running_max, last: 0 }
    }

    /// Adds a job and returns its number. If `most` jobs of the tenant wait already, returns their
    /// count as the error.
    pub(super) fn put(&mut self, tenant: &Arc<str>, job: J, most: usize) -> Result<u64, usize> {
        let own = self.jobs_of.entry(Arc::clone(tenant)).or_default();
        if own.waiting.len() >= most {
            own.refused += 1;
            return Err(own.waiting.len());
        }
        self.last += 1;
        if own.waiting.is_empty() {
            self.order.push_back(Arc::clone(tenant));
        }
        own.waiting.push_back((self.last, job));
        Ok(self.last)
    }

    /// Returns the next job that may run, and its tenant. The caller calls [`TenantQueue::done`]
    /// later.
    pub(super) fn take(&mut self) -> Option<(Arc<str>, J)> {
        let free = |tenant: &Arc<str>| {
            self.jobs_of.get(tenant).is_some_and(|own| own.running < self.running_max)
        };
        let at = self.order.iter().position(free)?;
        let tenant = self.order.remove(at)?;
        let own = self.jobs_of.get_mut(&tenant)?;
        let (_, job) = own.waiting.pop_front()?;
        own.running += 1;
        if !own.waiting.is_empty() {
            self.order.push_back(Arc::clone(&tenant));
        }
        Some((tenant, job))
    }

    /// Notes that a job of this tenant has ended.
    pub(super) fn done(&mut self, tenant: &Arc<str>) {
        if let Some(own) = self.jobs_of.get_mut(tenant) {
            own.running = own.running.saturating_sub(1);
        }
        self.forget(tenant);
    }

    /// Takes out a job that waits. Returns `None` if the job no longer waits.
    pub(super) fn withdraw(&mut self, tenant: &Arc<str>, number: u64) -> Option<J> {
        let own = self.jobs_of.get_mut(tenant)?;
        let at = own.waiting.iter().position(|(waiting, _)| *waiting == number)?;
        let (_, job) = own.waiting.remove(at)?;
        if own.waiting.is_empty() {
            self.order.retain(|waiting| waiting != tenant);
        }
        self.forget(tenant);
        Some(job)
    }

    /// Takes out all jobs that wait.
    pub(super) fn clear(&mut self) -> Vec<J> {
        self.order.clear();
        let jobs =
            |own: &mut Jobs<J>| std::mem::take(&mut own.waiting).into_iter().map(|(_, job)| job);
        self.jobs_of.values_mut().flat_map(jobs).collect()
    }

    /// Returns every tenant that has or had jobs.
    pub(super) fn seen(&self) -> Vec<(Arc<str>, QueueStatus)> {
        let seen = |(tenant, own): (&Arc<str>, &Jobs<J>)| {
            let (waiting, running, refused) = (own.waiting.len(), own.running, own.refused);
            (Arc::clone(tenant), QueueStatus { waiting, running, refused })
        };
        self.jobs_of.iter().map(seen).collect()
    }

    /// Drops an idle tenant's entry. A tenant with refusals is kept while there is room.
    fn forget(&mut self, tenant: &Arc<str>) {
        let idle = |own: &Jobs<J>| own.waiting.is_empty() && own.running == 0;
        let many = self.jobs_of.len() > IDLE_MAX;
        if self.jobs_of.get(tenant).is_some_and(|own| idle(own) && (own.refused == 0 || many)) {
            self.jobs_of.remove(tenant);
        }
    }
}
