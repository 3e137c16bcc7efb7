//! Classes and what their events may spend.
//!
//! A class selects the budget of each event. The numbers are ceilings against loops and abuse, far above what a
//! protocol handler needs; they are not what keeps sessions fair to each other.

mod cpu;
mod lane;
mod policy;
mod turn;
mod turns;
mod turnstile;

pub(crate) use cpu::{Stretch, thread_time};
pub use lane::{Lane, Seat};
pub use policy::{Standing, take};
pub use turn::Turn;
pub use turnstile::{Place, TurnsSeen, Turnstile, here};

use std::time::Duration;

use crate::event::{Budget, Priority};

const fn budget_of(fuel_millions: u64, cpu_ms: u64, wall_s: u64) -> Budget {
    Budget { fuel: fuel_millions * 1_000_000, cpu: Duration::from_millis(cpu_ms), wall: Duration::from_secs(wall_s) }
}

/// By class, lowest first. Ordinary code burns 0.8 to 9 fuel per nanosecond, so that a class's fuel lasts for 1 to
/// 60 milliseconds of it; page faults and memory growth burn next to none, which is what the CPU time is for.
const BUDGETS: [Budget; 5] = [
    budget_of(10, 20, 30),
    budget_of(20, 40, 15),
    budget_of(50, 100, 10),
    budget_of(100, 200, 5),
    budget_of(200, 400, 5),
];

/// What one event of a session in this class may spend.
#[must_use]
pub fn budget(priority: Priority) -> Budget {
    BUDGETS[priority as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_class_never_has_less_fuel_or_cpu_time() {
        for pair in Priority::ALL.windows(2) {
            let (lower, higher) = (budget(pair[0]), budget(pair[1]));
            assert!(lower.fuel < higher.fuel && lower.cpu < higher.cpu && lower.wall >= higher.wall);
        }
    }
}
