//! The quota of a tenant: what its servers may use together, and what they used, as CPU time,
//! bytes and memory. Needs no lock, and writes nothing shared if nothing is limited.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::cpu::nanoseconds;

/// What a tenant may use at once after a pause, as time at its rate. After that the tenant gets
/// only its rate.
const BURST: Duration = Duration::from_millis(100);
/// A single use is at most a second's rate divided by this, or `GRAIN_MIN` if that is more.
const GRAINS: u64 = 10;
const GRAIN_MIN: usize = 1 << 10;
/// The maximum sleep of a waiting task before it asks again, so that it notices a limit that was
/// raised or lifted.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// The unit of a CPU rate: nanoseconds of CPU time each second.
const NANOS: f64 = 1e9;
/// Default limit of waiting mail of a tenant's sessions, in bytes. Mail counts once per receiver:
/// 64 KiB to 2,000 sessions at once fit.
pub const MAIL_MAX_BYTES: usize = 128 << 20;

/// Sustained limits of a tenant over all of its servers. Zero is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct QuotaLimits {
    /// CPUs: 0.5 is half the time of one.
    pub cpus: f64,
    /// Memory of all sessions together, in bytes: linear memory of instances, waiting mail, and
    /// send buffers that their peers do not drain.
    pub memory_max_bytes: usize,
    /// Waiting mail of all sessions together, in bytes. Zero is [`MAIL_MAX_BYTES`].
    pub mail_max_bytes: usize,
    /// Bytes from and to peers together, each second.
    pub bytes_per_second: u64,
}

/// The quota of one tenant: its limits and what it used.
#[derive(Debug)]
pub struct Quota {
    cpu: Rate,
    bytes: Rate,
    memory: Allowance,
    mail: Allowance,
}

/// A limit on use over time.
#[derive(Debug)]
pub(crate) struct Rate {
    began: Instant,
    /// The limit each second. Zero: no limit.
    per_second: AtomicU64,
    /// Until when the rate has been used up, in nanoseconds since a burst before `began`.
    paid_until: AtomicU64,
    used: AtomicU64,
    waits: AtomicU64,
    /// Use at once that is paid back over time: each later use pays as much again.
    owed: AtomicU64,
}

/// A limit on use at one moment.
#[derive(Debug, Default)]
struct Allowance {
    /// Zero: no limit.
    max: AtomicUsize,
    taken: AtomicUsize,
    refused: AtomicU64,
}

/// A quota at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuotaStatus {
    /// The tenant's limits.
    pub shares: QuotaLimits,
    /// Memory of the sessions: instances, waiting mail, and send buffers that do not drain.
    pub memory_bytes: usize,
    /// Growths of memory that were refused because of the quota.
    pub memory_refused: u64,
    /// Waiting mail, in mailboxes and send buffers. A part of `memory_bytes`.
    pub mail_bytes: usize,
    /// Pieces of mail that were refused because of the quota for mail or for memory.
    pub mail_refused: u64,
    /// CPU time since it was limited. Not counted without a limit.
    pub cpu: Duration,
    /// Events that had to wait because of the quota for CPU time.
    pub cpu_waits: u64,
    /// Bytes since they were limited. Not counted without a limit.
    pub bytes: u64,
    /// Reads and writes that had to wait because of the quota for bytes.
    pub bytes_waits: u64,
}

impl Default for Quota {
    /// A quota without limits but that for mail.
    fn default() -> Self {
        let now = Instant::now();
        let mail = Allowance { max: AtomicUsize::new(MAIL_MAX_BYTES), ..Allowance::default() };
        Self { cpu: Rate::new(now), bytes: Rate::new(now), memory: Allowance::default(), mail }
    }
}

impl Quota {
    /// Puts other limits in force. Use above the new limits stays taken, and the quota grants no
    /// more.
    pub fn set(&self, shares: QuotaLimits) {
        self.cpu.set((shares.cpus * NANOS) as u64);
        self.bytes.set(shares.bytes_per_second);
        self.memory.max.store(shares.memory_max_bytes, Ordering::Relaxed);
        let mail = if shares.mail_max_bytes == 0 { MAIL_MAX_BYTES } else { shares.mail_max_bytes };
        self.mail.max.store(mail, Ordering::Relaxed);
    }

    /// Returns what the tenant has used, and its limits.
    #[must_use]
    pub fn seen(&self) -> QuotaStatus {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let shares = QuotaLimits {
            cpus: load(&self.cpu.per_second) as f64 / NANOS,
            memory_max_bytes: self.memory.max.load(Ordering::Relaxed),
            mail_max_bytes: self.mail.max.load(Ordering::Relaxed),
            bytes_per_second: load(&self.bytes.per_second),
        };
        QuotaStatus {
            shares,
            memory_bytes: self.memory.taken.load(Ordering::Relaxed),
            memory_refused: load(&self.memory.refused),
            mail_bytes: self.mail.taken.load(Ordering::Relaxed),
            mail_refused: load(&self.mail.refused),
            cpu: Duration::from_nanos(load(&self.cpu.used)),
            cpu_waits: load(&self.cpu.waits),
            bytes: load(&self.bytes.used),
            bytes_waits: load(&self.bytes.waits),
        }
    }

    /// Returns the rate of CPU time, in nanoseconds.
    pub(crate) fn cpu(&self) -> &Rate {
        &self.cpu
    }

    /// Returns the rate of bytes from and to peers.
    pub(crate) fn bytes(&self) -> &Rate {
        &self.bytes
    }

    /// Takes bytes of memory. Returns false if fewer are left.
    pub(crate) fn take_memory(&self, bytes: usize) -> bool {
        let taken = self.memory.take(bytes);
        if !taken {
            self.memory.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Takes bytes of memory even if fewer are left. For a use that replaces a larger one, which is
    /// given back at once.
    pub(crate) fn keep_memory(&self, bytes: usize) {
        self.memory.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives bytes of memory back.
    pub(crate) fn give_memory(&self, bytes: usize) {
        self.memory.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes bytes for mail, which count as memory as well. Returns false if either has fewer left.
    pub(crate) fn take_mail(&self, bytes: usize) -> bool {
        let of_mail = self.mail.take(bytes);
        let taken = of_mail && self.memory.take(bytes);
        if of_mail && !taken {
            self.mail.taken.fetch_sub(bytes, Ordering::Relaxed);
        }
        if !taken {
            self.mail.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Gives bytes of mail back.
    pub(crate) fn give_mail(&self, bytes: usize) {
        self.mail.taken.fetch_sub(bytes, Ordering::Relaxed);
        self.give_memory(bytes);
    }
}

impl Allowance {
    /// Takes bytes if that many are left.
    fn take(&self, bytes: usize) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let room = |taken: usize| {
            let taken = taken.saturating_add(bytes);
            (max == 0 || bytes == 0 || taken <= max).then_some(taken)
        };
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }
}

impl Rate {
    fn new(began: Instant) -> Self {
        let zero = AtomicU64::default;
        Self {
            began,
            per_second: zero(),
            paid_until: zero(),
            used: zero(),
            waits: zero(),
            owed: zero(),
        }
    }

    fn set(&self, per_second: u64) {
        if self.per_second.swap(per_second, Ordering::Relaxed) != per_second {
            // Use at another rate says nothing about this one.
            self.paid_until.store(0, Ordering::Relaxed);
            self.owed.store(0, Ordering::Relaxed);
        }
    }

    /// Returns whether there is a limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.per_second.load(Ordering::Relaxed) != 0
    }

    /// Charges use of this moment. Reads the clock only if there is a limit.
    pub(crate) fn charge(&self, amount: u64) {
        if self.is_limited() {
            self.charge_at(amount, Instant::now());
        }
    }

    fn charge_at(&self, amount: u64, now: Instant) {
        let per_second = self.per_second.load(Ordering::Relaxed);
        if per_second == 0 || amount == 0 {
            return;
        }
        self.used.fetch_add(amount, Ordering::Relaxed);
        let earliest = self.at(now).saturating_sub(nanoseconds(BURST));
        let unused = earliest.saturating_sub(self.paid_until.load(Ordering::Relaxed));
        self.pay_back(u64::try_from(times(unused, per_second, 1_000_000_000)).unwrap_or(u64::MAX));
        let price = times(amount.saturating_add(self.pay_back(amount)), 1_000_000_000, per_second);
        let price = u64::try_from(price).unwrap_or(u64::MAX);
        let paid = |until: u64| Some(until.max(earliest).saturating_add(price));
        // The closure always returns a value, so the update cannot fail.
        let _ = self.paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid);
    }

    /// Adds use at once, by work that does not wait for the rate, to the debt.
    ///
    /// Until the debt is paid, later uses cost twice as much. Time without any use pays as well. At
    /// a rate below `floor` only the rate's part of `floor` is charged, so that a small tenant can
    /// pay.
    pub(crate) fn owe(&self, amount: u64, floor: u64) {
        if self.is_limited() {
            self.owe_at(amount, floor, Instant::now());
        }
    }

    fn owe_at(&self, amount: u64, floor: u64, now: Instant) {
        let per_second = self.per_second.load(Ordering::Relaxed);
        let part = times(amount, per_second.min(floor), floor);
        self.used.fetch_add(amount, Ordering::Relaxed);
        // Time that went unused before the debt does not pay for it.
        let earliest = self.at(now).saturating_sub(nanoseconds(BURST));
        self.paid_until.fetch_max(earliest, Ordering::Relaxed);
        self.owed.fetch_add(u64::try_from(part).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Pays back the debt by at most `amount`, and returns the amount paid.
    fn pay_back(&self, amount: u64) -> u64 {
        if self.owed.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let less = |owed: u64| Some(owed.saturating_sub(amount));
        let before = self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        before.unwrap_or_else(|owed| owed).min(amount)
    }

    /// Returns when more may be used, unless that is now.
    pub(crate) fn not_before(&self, now: Instant) -> Option<Instant> {
        if self.per_second.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let left = self
            .paid_until
            .load(Ordering::Relaxed)
            .checked_sub(self.at(now))
            .filter(|left| *left > 0)?;
        Some(now + Duration::from_nanos(left))
    }

    /// Returns when to ask again, if nothing may be used now. Reads the clock only if there is a
    /// limit.
    pub(crate) fn not_before_now(&self) -> Option<Instant> {
        let limited = self.per_second.load(Ordering::Relaxed) != 0;
        limited.then(Instant::now).and_then(|now| Some(Self::ask_again(self.not_before(now)?, now)))
    }

    /// Returns the limit of a single use. With it, making up for one use does not take long.
    pub(crate) fn grain(&self) -> usize {
        match self.per_second.load(Ordering::Relaxed) {
            0 => usize::MAX,
            per_second => usize::try_from(per_second / GRAINS).unwrap_or(usize::MAX).max(GRAIN_MIN),
        }
    }

    /// Returns when to ask again, if more may be used from `until` on.
    pub(crate) fn ask_again(until: Instant, now: Instant) -> Instant {
        until.min(now + ASK_AGAIN)
    }

    /// Counts a wait because of this rate.
    pub(crate) fn waited(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    /// Converts a time to nanoseconds since a burst before `began`, so that a burst is there at the
    /// start.
    fn at(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.began)).saturating_add(nanoseconds(BURST))
    }
}

/// Returns `amount * factor / divisor`, without overflow. A divisor of zero counts as one.
fn times(amount: u64, factor: u64, divisor: u64) -> u128 {
    u128::from(amount) * u128::from(factor) / u128::from(divisor.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(shares: QuotaLimits) -> Quota {
        let quota = Quota::default();
        quota.set(shares);
        quota
    }

    #[test]
    fn rate_gives_a_burst_and_then_its_share() {
        let quota = limited(QuotaLimits { bytes_per_second: 1_000, ..QuotaLimits::default() });
        let (rate, start) = (quota.bytes(), Instant::now());
        let mut sent = 0;
        for step in 0..10_000 {
            let now = start + Duration::from_millis(step);
            if rate.not_before(now).is_none() {
                rate.charge_at(7, now);
                sent += 7;
            }
        }
        // Ten seconds, a burst of a tenth of one, and one step too many.
        assert!((10_000..=10_107).contains(&sent), "{sent}");
        assert_eq!(quota.seen().bytes, sent);
    }

    #[test]
    fn one_large_use_is_waited_for_in_full() {
        let quota = limited(QuotaLimits { cpus: 0.5, ..QuotaLimits::default() });
        let (rate, now) = (quota.cpu(), Instant::now() + Duration::from_secs(1));
        rate.charge_at(nanoseconds(Duration::from_secs(1)), now);
        let at = rate.not_before(now).expect("it was a second's work");
        let wait = at - now;
        assert!(
            (Duration::from_millis(1_890)..=Duration::from_secs(2)).contains(&wait),
            "{wait:?}"
        );
        assert_eq!(rate.not_before(at), None);
    }

    #[test]
    fn unlimited_quota_neither_waits_nor_counts() {
        let (quota, now) = (Quota::default(), Instant::now());
        quota.bytes().charge(u64::MAX);
        assert_eq!((quota.bytes().not_before(now), quota.seen().bytes), (None, 0));
    }

    #[test]
    fn memory_ends_at_its_limit() {
        let quota = limited(QuotaLimits { memory_max_bytes: 100, ..QuotaLimits::default() });
        assert!(quota.take_memory(99) && quota.take_memory(1) && !quota.take_memory(1));
        quota.give_memory(50);
        assert!(quota.take_memory(50) && quota.take_memory(0));
        assert_eq!((quota.seen().memory_bytes, quota.seen().memory_refused), (100, 1));
    }

    #[test]
    fn mail_counts_as_mail_and_as_memory() {
        let quota = limited(QuotaLimits {
            memory_max_bytes: 100,
            mail_max_bytes: 60,
            ..QuotaLimits::default()
        });
        assert!(quota.take_mail(59) && quota.take_mail(1) && !quota.take_mail(1));
        assert!(quota.take_memory(40) && !quota.take_memory(1));
        quota.give_mail(30);
        assert!(quota.take_memory(20) && quota.take_mail(10) && !quota.take_mail(1));
        let seen = quota.seen();
        assert_eq!((seen.memory_bytes, seen.mail_bytes), (100, 40));
        assert_eq!((seen.memory_refused, seen.mail_refused), (1, 2));
    }

    #[test]
    fn mail_has_a_bound_where_nothing_is_said() {
        let quota = Quota::default();
        assert!(quota.take_mail(MAIL_MAX_BYTES) && !quota.take_mail(1));
        quota.set(QuotaLimits::default());
        assert_eq!(quota.seen().shares.mail_max_bytes, MAIL_MAX_BYTES);
        quota.give_mail(MAIL_MAX_BYTES);
        assert_eq!((quota.seen().memory_bytes, quota.seen().mail_bytes), (0, 0));
    }

    #[test]
    fn owed_work_halves_the_rate_until_paid() {
        let second = Duration::from_secs(1);
        for (cpus, owed, floor, expected) in [
            // Half a CPU, of which a quarter goes to one second of work.
            (0.5, second, 0.1, Duration::from_secs(4)),
            // Below the floor only the rate's part of the work is charged: a hundredth of a CPU
            // owes a tenth of it.
            (0.01, second, 0.1, Duration::from_secs(20)),
        ] {
            let quota = limited(QuotaLimits { cpus, ..QuotaLimits::default() });
            let (rate, start) = (quota.cpu(), Instant::now());
            rate.owe_at(nanoseconds(owed), (floor * NANOS) as u64, start);
            let (mut now, mut used, mut halved) = (start, Duration::ZERO, Duration::ZERO);
            let step = Duration::from_micros(100);
            while used < Duration::from_secs(2) && now < start + Duration::from_secs(60) {
                if rate.owed.load(Ordering::Relaxed) > 0 {
                    halved = now - start;
                }
                rate.charge_at(nanoseconds(step), now);
                used += step;
                now = rate.not_before(now).unwrap_or(now);
            }
            let (least, most) = (expected.mul_f64(0.8), expected.mul_f64(1.2));
            assert!((least..=most).contains(&halved), "{cpus}: at half rate for {halved:?}");
        }
        // A tenant that uses nothing meanwhile has paid as well.
        let quota = limited(QuotaLimits { cpus: 0.5, ..QuotaLimits::default() });
        let (rate, start) = (quota.cpu(), Instant::now());
        rate.owe_at(nanoseconds(second), 1, start);
        rate.charge_at(1, start + Duration::from_secs(3));
        assert_eq!(rate.owed.load(Ordering::Relaxed), 0);
    }
}
