//! The budgets of events, by class.
//!
//! The numbers are ceilings against loops and abuse, far above what a protocol handler needs. They
//! do not make sessions fair to each other; the fair queue does.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::event::{Budget, Priority};

/// The budget of an instance's start, as a multiple of an event's. A language with a runtime sets
/// that runtime up first.
const START_FACTOR: u32 = 10;
/// The range of fuel in a budget.
const FUEL: RangeInclusive<u64> = 10_000..=1_000_000_000_000;
/// The range of times in a budget.
const TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3_600);

const fn budget_of(fuel_millions: u64, cpu_ms: u64, wall_s: u64) -> Budget {
    Budget {
        fuel: fuel_millions * 1_000_000,
        cpu: Duration::from_millis(cpu_ms),
        wall: Duration::from_secs(wall_s),
    }
}

/// The default budgets by class, lowest class first.
///
/// Ordinary code burns 0.8 to 9 fuel per nanosecond, so a class's fuel lasts for 1 to 60
/// milliseconds. Page faults and memory growth burn almost no fuel; the CPU time limits those.
const BUDGETS: [Budget; Priority::ALL.len()] = [
    budget_of(10, 20, 30),
    budget_of(20, 40, 15),
    budget_of(50, 100, 10),
    budget_of(100, 200, 5),
    budget_of(200, 400, 5),
];

/// Changes of one class's budget. A field that is `None` leaves the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BudgetChange {
    /// Fuel of an event. 10,000 to 1,000,000,000,000.
    pub fuel: Option<u64>,
    /// CPU time of an event. 1 ms to an hour.
    pub cpu: Option<Duration>,
    /// Wall time of an event, and of the start of an instance. 1 ms to an hour.
    pub wall: Option<Duration>,
    /// Fuel of the start of an instance. Default: ten times that of an event.
    pub start_fuel: Option<u64>,
    /// CPU time of the start of an instance. Default: ten times that of an event.
    pub start_cpu: Option<Duration>,
}

impl BudgetChange {
    /// Returns the first value out of range: its key, the expected range and the value found.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let fuels = [("fuel", self.fuel), ("start_fuel", self.start_fuel)];
        let fuel = fuels.into_iter().find_map(|(key, value)| {
            let value = value.filter(|value| !FUEL.contains(value))?;
            Some(format!("`{key}`: expected {} to {}, found {value}", FUEL.start(), FUEL.end()))
        });
        let times = [("cpu", self.cpu), ("wall", self.wall), ("start_cpu", self.start_cpu)];
        fuel.or_else(|| {
            times.into_iter().find_map(|(key, value)| {
                let value = value.filter(|value| !TIME.contains(value))?;
                Some(format!("`{key}`: expected {:?} to 1h, found {value:?}", TIME.start()))
            })
        })
    }
}

/// The budgets of a server, by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budgets([BudgetChange; Priority::ALL.len()]);

impl Budgets {
    /// Sets the changes of a class's budget.
    pub fn set(&mut self, class: Priority, change: BudgetChange) {
        self.0[class as usize] = change;
    }

    /// Returns the changes of a class's budget.
    #[must_use]
    pub fn change(&self, class: Priority) -> BudgetChange {
        self.0[class as usize]
    }

    /// Returns the budget of one event of a session in this class.
    #[must_use]
    pub fn event(&self, class: Priority) -> Budget {
        let (default, set) = (BUDGETS[class as usize], self.0[class as usize]);
        Budget {
            fuel: set.fuel.unwrap_or(default.fuel),
            cpu: set.cpu.unwrap_or(default.cpu),
            wall: set.wall.unwrap_or(default.wall),
        }
    }

    /// Returns the budget of an instance's start, for a session in this class.
    #[must_use]
    pub fn start(&self, class: Priority) -> Budget {
        let (event, set) = (self.event(class), self.0[class as usize]);
        Budget {
            fuel: set.start_fuel.unwrap_or(event.fuel.saturating_mul(START_FACTOR.into())),
            cpu: set.start_cpu.unwrap_or(event.cpu * START_FACTOR),
            wall: event.wall,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_class_has_more_fuel_and_cpu_time() {
        let budgets = Budgets::default();
        for pair in Priority::ALL.windows(2) {
            let (lower, higher) = (budgets.event(pair[0]), budgets.event(pair[1]));
            assert!(
                lower.fuel < higher.fuel && lower.cpu < higher.cpu && lower.wall >= higher.wall
            );
        }
    }

    #[test]
    fn set_budget_holds_for_its_class_and_start() {
        let mut budgets = Budgets::default();
        budgets.set(Priority::Low, BudgetChange { fuel: Some(10_000), ..BudgetChange::default() });
        assert_eq!(
            (budgets.event(Priority::Low).fuel, budgets.start(Priority::Low).fuel),
            (10_000, 100_000)
        );
        assert_eq!(budgets.event(Priority::Low).cpu, BUDGETS[1].cpu);
        assert_eq!(budgets.event(Priority::Normal), BUDGETS[2]);
    }

    #[test]
    fn ranges_include_their_ends_only() {
        let with = |fuel| BudgetChange { fuel: Some(fuel), ..BudgetChange::default() };
        assert_eq!([10_000, 1_000_000_000_000].map(|fuel| with(fuel).problem()), [None, None]);
        assert!([9_999, 1_000_000_000_001].iter().all(|fuel| with(*fuel).problem().is_some()));
        let with = |cpu| BudgetChange { start_cpu: Some(cpu), ..BudgetChange::default() };
        assert!(
            with(Duration::from_millis(1)).problem().is_none()
                && with(Duration::ZERO).problem().is_some()
        );
    }
}
