//! A limit on lines of the log over time.

use crate::locks::lock;
use std::sync::Mutex;
use std::time::Instant;

/// The burst: this many seconds' worth of lines may come at once.
const BURST_SECONDS: f64 = 2.0;

/// A limit on lines over time, shared by all writers of these lines.
#[derive(Debug)]
pub struct Bucket {
    per_second: f64,
    state: Mutex<BucketState>,
}

#[derive(Debug)]
struct BucketState {
    tokens: f64,
    filled: Instant,
    suppressed: u64,
}

impl Bucket {
    /// Creates a bucket of this many lines a second, and twice as many at once.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        let state = BucketState {
            tokens: per_second * BURST_SECONDS,
            filled: Instant::now(),
            suppressed: 0,
        };
        Self { per_second, state: Mutex::new(state) }
    }

    /// Lets a line pass, and returns how many lines were dropped since the last one. `None`: this
    /// line is dropped.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        let gained = now.saturating_duration_since(state.filled).as_secs_f64() * self.per_second;
        state.tokens = (state.tokens + gained).min(self.per_second * BURST_SECONDS);
        state.filled = now;
        if state.tokens < 1.0 {
            state.suppressed += 1;
            return None;
        }
        state.tokens -= 1.0;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn bucket_passes_burst_then_rate_and_counts_rest() {
        let (bucket, start) = (Bucket::new(10), Instant::now());
        let passed = (0..100).filter(|_| bucket.pass(start).is_some()).count();
        assert_eq!(passed, 20);
        assert_eq!(bucket.pass(start + Duration::from_millis(150)), Some(80));
        assert_eq!(bucket.pass(start + Duration::from_millis(150)), None);
    }
}
