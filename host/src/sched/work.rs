//! Work for a tenant outside of its guests' calls: polls of its sessions' tasks, and work of other
//! threads on its behalf. If the tenant's CPU time is limited, the work is measured; otherwise no
//! clock is read.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cpu::{Stretch, nanoseconds, thread_time};
use super::quota::Quota;

/// CPU time of the accepting thread for a client: `accept`, socket options, a task or a refusal.
pub(crate) const ACCEPT_COST: Duration = Duration::from_micros(20);
/// CPU time of the log's thread for a line: its part of a `write`.
pub(crate) const LOG_LINE_COST: Duration = Duration::from_micros(2);
/// CPU time of an API request beside its call: reading, parsing and answering it.
pub(crate) const CALL_COST: Duration = Duration::from_micros(50);
/// CPU time of sending to a socket, beside the cost of its bytes. Measured on loopback, where the
/// sender does the receiver's work, too.
const SEND_COST: Duration = Duration::from_micros(4);
/// CPU time of sending, for each KiB.
const SEND_KIB_COST: Duration = Duration::from_nanos(70);

/// Returns the CPU time of sending this number of bytes at once, where it is not measured.
pub(crate) fn sending(bytes: u64) -> Duration {
    SEND_COST + Duration::from_nanos((bytes >> 10).saturating_mul(SEND_KIB_COST.as_nanos() as u64))
}

/// What the calling thread measures at the moment.
#[derive(Debug, Clone, Copy, Default)]
enum Outside {
    #[default]
    Nothing,
    /// Work outside of a guest's call, since then.
    Since(Stretch),
    /// A guest's call, which is charged by itself.
    Paused,
}

thread_local! {
    static OUTSIDE: Cell<Outside> = const { Cell::new(Outside::Nothing) };
}

/// Work of the calling thread for a tenant, from its creation to its drop on the same thread. Not
/// to be nested.
pub(crate) struct Work<'a>(&'a Quota);

impl<'a> Work<'a> {
    /// Begins now. Reads a clock only if the tenant's CPU time is limited.
    pub(crate) fn begin(quota: &'a Quota) -> Self {
        if quota.cpu().is_limited() {
            OUTSIDE.set(Outside::Since(Stretch::begin(Instant::now())));
        }
        Self(quota)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if let Outside::Since(stretch) = OUTSIDE.take() {
            self.0.charge(stretch.end());
        }
    }
}

/// Pauses the measurement as a guest's call begins on the calling thread, for this tenant.
pub(super) fn pause(quota: &Quota) {
    if let Outside::Since(stretch) = OUTSIDE.get() {
        quota.charge(stretch.end());
        OUTSIDE.set(Outside::Paused);
    }
}

/// Resumes the measurement as the guest's call ended or waits.
pub(super) fn go_on() {
    if let Outside::Paused = OUTSIDE.get() {
        OUTSIDE.set(Outside::Since(Stretch::begin(Instant::now())));
    }
}

/// Charges a tenant with every poll of `work`. Cancel safe if `work` is.
pub(crate) async fn charged<F: Future>(quota: Arc<Quota>, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let _measured = Work::begin(&quota);
        work.as_mut().poll(cx)
    })
    .await
}

impl Quota {
    /// Charges the tenant with CPU time.
    pub(crate) fn charge(&self, used: Duration) {
        self.cpu().charge(nanoseconds(used));
    }

    /// Runs `work` on the calling thread, which does nothing else meanwhile. The tenant owes the
    /// CPU time, as with a compilation.
    pub(crate) fn owing<T>(&self, work: impl FnOnce() -> T) -> T {
        if !self.cpu().is_limited() {
            return work();
        }
        let start = thread_time();
        let done = work();
        self.owe(thread_time().saturating_sub(start));
        done
    }

    /// Adds the CPU time of a compilation or similar work to the tenant's debt, which it pays back
    /// over time.
    pub(crate) fn owe(&self, used: Duration) {
        self.cpu().owe(nanoseconds(used), nanoseconds(COMPILING_FLOOR));
    }
}

/// CPU time each second that a tenant has at least for compilations. A tenant with a smaller share
/// is charged only its share's part of this.
const COMPILING_FLOOR: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;
    use crate::sched::QuotaLimits;
    use crate::sched::cpu::clock_reads;

    fn work(for_cpu: Duration) {
        let until = thread_time() + for_cpu;
        while thread_time() < until {
            (0..100).for_each(|step| _ = black_box(step));
        }
    }

    #[test]
    fn unlimited_tenant_costs_no_clock_read() {
        let quota = Arc::<Quota>::default();
        let before = clock_reads();
        for _ in 0..100 {
            let measured = Work::begin(&quota);
            pause(&quota);
            go_on();
            drop(measured);
            quota.charge(LOG_LINE_COST);
            quota.owing(|| ());
            quota.owe(LOG_LINE_COST);
        }
        assert_eq!((clock_reads(), quota.seen().cpu), (before, Duration::ZERO));
        quota.set(QuotaLimits { cpus: 0.5, ..QuotaLimits::default() });
        drop(Work::begin(&quota));
        assert!(clock_reads() > before, "the reads are not counted");
    }

    #[test]
    fn outside_work_is_charged_once_without_guests() {
        let quota = Quota::default();
        quota.set(QuotaLimits { cpus: 0.5, ..QuotaLimits::default() });
        let (outside, inside) = (Duration::from_millis(2), Duration::from_millis(20));
        let (rounds, mut used) = (5, Duration::ZERO);
        for _ in 0..rounds {
            let start = thread_time();
            let measured = Work::begin(&quota);
            work(outside);
            pause(&quota);
            let before = quota.seen().cpu;
            work(inside);
            assert_eq!(quota.seen().cpu, before, "the guest's call is charged by its turn");
            go_on();
            work(outside);
            drop(measured);
            used += thread_time() - start;
        }
        let (charged, least) = (quota.seen().cpu, outside * 2 * rounds);
        assert!(
            charged >= least && charged < used - inside * (rounds - 1),
            "charged {charged:?} of {used:?}"
        );
    }

    #[test]
    fn a_panic_leaves_nothing_to_the_next_task() {
        let (limited, free) = (Quota::default(), Quota::default());
        limited.set(QuotaLimits { cpus: 0.5, ..QuotaLimits::default() });
        let broken = std::panic::catch_unwind(|| {
            let _measured = Work::begin(&limited);
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(broken.is_err());
        let charged = limited.seen().cpu;
        let measured = Work::begin(&free);
        work(Duration::from_millis(1));
        drop(measured);
        assert_eq!((limited.seen().cpu, free.seen().cpu), (charged, Duration::ZERO));
    }
}
