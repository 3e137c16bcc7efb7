//! Model of a server's versions: the shortest form of the rules, and a check of what was observed
//! against them.
//!
//! An order takes effect at one moment between its start and its answer, in an unknown sequence
//! with others. So the model keeps every state that the server can be in. Each observation removes
//! the states that it rules out. If no state is left, the server broke the rules.

use std::collections::{BTreeMap, BTreeSet};

use crate::rollout::HISTORY_MAX;

/// Number of faulted sessions that rolls a version back.
pub(super) const FAULTS_MIN: u32 = 2;

/// Number of one of the simulation's plugins.
pub(super) type Number = usize;

/// State of a version that the server had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum VersionState {
    Current,
    Canary,
    Superseded,
    RolledBack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Had {
    pub(super) number: u64,
    pub(super) plugin: Number,
    pub(super) state: VersionState,
}

/// Order of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    Swap(Number),
    Canary(Number),
    Promote,
    RollBack,
    Reload(Number),
    Stop,
}

/// Answer to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Did {
        revision: u64,
        rolled_back: bool,
        recorded: bool,
    },
    /// The order was refused, for the reason with this name.
    Refused(&'static str),
}

/// Visible state of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorldView {
    pub(super) had: Vec<Had>,
    pub(super) canary: Option<u64>,
}

/// Progress of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Given(Order),
    /// The order made the first revision current, in place of the second.
    Put(u64, u64),
    /// The order made this revision current and rolled it back, or never made it current.
    Back(u64),
    /// The order runs this revision as a canary.
    Tries(u64),
    /// The order went back to the first revision, from the second.
    WentBack(u64, u64),
    Refused(&'static str),
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    configured: Number,
    had: Vec<Had>,
    last: u64,
    canary: Option<u64>,
    /// Revision on probation, and the revision that its faults bring back.
    watched: Option<(u64, u64)>,
    /// Revision that the judge promoted, and the one before. The promoted one may be rolled back,
    /// because sessions may not be able to move to it.
    judged: Option<(u64, u64)>,
    /// Number of faulted sessions of the current revision, up to [`FAULTS_MIN`].
    faults: u32,
    stopped: bool,
    /// Order that holds the lock of swaps. No other order changes versions before it is answered.
    holder: Option<usize>,
    orders: BTreeMap<usize, Progress>,
    /// Orders that a later roll-back cancels, unless they are done by then.
    overtaken: BTreeSet<usize>,
    /// Record on disk: the plugin that the configuration named, and the revisions.
    disk: Option<(Number, Vec<Had>)>,
}

impl State {
    fn current(&self) -> u64 {
        self.had.iter().find(|had| had.state == VersionState::Current).map_or(0, |had| had.number)
    }

    fn plugin(&self, number: u64) -> Option<Number> {
        self.had.iter().find(|had| had.number == number).map(|had| had.plugin)
    }

    fn is_current(&self, plugin: Number) -> bool {
        self.plugin(self.current()) == Some(plugin)
    }

    fn set_state(&mut self, number: u64, state: VersionState) {
        self.had.iter_mut().filter(|had| had.number == number).for_each(|had| had.state = state);
    }

    fn make_current(&mut self, number: u64) {
        self.set_state(self.current(), VersionState::Superseded);
        self.set_state(number, VersionState::Current);
        (self.watched, self.judged, self.faults) = (None, None, 0);
    }

    fn another(&mut self, plugin: Number, state: VersionState) -> u64 {
        self.last += 1;
        self.had.push(Had { number: self.last, plugin, state });
        if self.had.len() > HISTORY_MAX {
            let oldest = self.had.iter().position(|had| had.state != VersionState::Current);
            self.had.remove(oldest.unwrap_or(0));
        }
        self.last
    }

    fn end_canary(&mut self) {
        if let Some(canary) = self.canary.take() {
            self.set_state(canary, VersionState::RolledBack);
        }
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = self.clone();
        change(&mut next);
        next
    }

    /// Applies an order that changes versions.
    fn by(&self, order: usize, change: impl FnOnce(&mut Self) -> Progress) -> Self {
        self.with(|next| {
            next.holder = Some(order);
            let progress = change(next);
            next.orders.insert(order, progress);
        })
    }

    fn refused(&self, order: usize, why: &'static str) -> Self {
        self.with(|next| {
            next.orders.insert(order, Progress::Refused(why));
        })
    }

    /// Returns every state that can follow without being observed.
    fn next(&self) -> Vec<Self> {
        let mut next = Vec::new();
        if self.disk.as_ref() != Some(&(self.configured, self.had.clone())) {
            next.push(self.with(|next| next.disk = Some((next.configured, next.had.clone()))));
        }
        for (&order, &progress) in &self.orders {
            match progress {
                Progress::Given(given) => self.begin(order, given, &mut next),
                // Too many sessions could not move.
                Progress::Put(new, before) if new != before && self.current() == new => {
                    next.push(self.by(order, |next| {
                        next.make_current(before);
                        next.set_state(new, VersionState::RolledBack);
                        Progress::Back(new)
                    }));
                }
                // The server stopped, so the roll-back is undone.
                Progress::WentBack(number, bad) if self.stopped && self.current() == number => {
                    next.push(self.by(order, |next| {
                        next.make_current(bad);
                        next.set_state(number, VersionState::RolledBack);
                        Progress::Back(number)
                    }));
                }
                Progress::Tries(number) if self.canary == Some(number) => {
                    next.push(self.by(order, |next| {
                        next.end_canary();
                        Progress::Back(number)
                    }));
                }
                _ => {}
            }
        }
        if self.holder.is_some() {
            return next;
        }
        let faulty = |(new, _): &(u64, u64)| self.current() == *new && self.faults == FAULTS_MIN;
        if let Some((new, before)) = self.watched.filter(faulty).or(self.judged) {
            next.push(self.with(|next| {
                next.make_current(before);
                next.set_state(new, VersionState::RolledBack);
            }));
        }
        if let Some(canary) = self.canary {
            next.push(self.with(Self::end_canary));
            next.push(self.with(|next| {
                let before = next.current();
                next.make_current(canary);
                next.canary = None;
                (next.watched, next.judged) = (Some((canary, before)), Some((canary, before)));
            }));
        }
        next
    }

    fn begin(&self, order: usize, given: Order, next: &mut Vec<Self>) {
        if given == Order::Stop {
            return next.push(self.with(|next| {
                (next.stopped, next.canary, next.watched) = (true, None, None);
                next.orders.insert(order, Progress::Done);
            }));
        }
        // An order may be refused before it takes the lock, and while earlier orders are still
        // under way.
        if self.stopped && !matches!(given, Order::Reload(_)) {
            next.push(self.refused(order, "stopping"));
        }
        if self.holder.is_some() {
            return;
        }
        match given {
            Order::Stop => {}
            Order::Swap(_) | Order::Canary(_) if self.canary.is_some() => {
                next.push(self.refused(order, "canary-runs"));
            }
            Order::Swap(plugin) => next.push(self.by(order, |next| {
                let before = next.current();
                if next.is_current(plugin) {
                    return Progress::Put(before, before);
                }
                let number = next.another(plugin, VersionState::Superseded);
                next.make_current(number);
                Progress::Put(number, before)
            })),
            Order::Canary(plugin) if self.is_current(plugin) => {
                next.push(self.refused(order, "canary"));
            }
            Order::Canary(plugin) => next.push(self.by(order, |next| {
                let number = next.another(plugin, VersionState::Canary);
                next.canary = Some(number);
                Progress::Tries(number)
            })),
            Order::Promote => match self.canary {
                None => next.push(self.refused(order, "no-canary")),
                Some(canary) => {
                    next.push(self.by(order, |next| {
                        let before = next.current();
                        next.make_current(canary);
                        next.canary = None;
                        Progress::Put(canary, before)
                    }));
                    // All sessions were to move together, and one could not.
                    next.push(self.by(order, |next| {
                        next.end_canary();
                        Progress::Back(0)
                    }));
                }
            },
            Order::RollBack => self.begin_roll_back(order, next),
            Order::Reload(plugin) => {
                if self.configured == plugin || self.is_current(plugin) {
                    next.push(self.by(order, |next| {
                        next.configured = plugin;
                        Progress::Done
                    }));
                }
                // Other values of the configuration may have changed.
                next.push(self.by(order, |next| {
                    next.end_canary();
                    if next.configured != plugin && !next.is_current(plugin) {
                        let number = next.another(plugin, VersionState::Superseded);
                        next.make_current(number);
                    }
                    next.configured = plugin;
                    Progress::Done
                }));
            }
        }
    }

    fn begin_roll_back(&self, order: usize, next: &mut Vec<Self>) {
        if let Some(canary) = self.canary {
            return next.push(self.by(order, |next| {
                next.end_canary();
                Progress::Back(canary)
            }));
        }
        let bad = self.current();
        let earlier = self
            .had
            .iter()
            .rev()
            .find(|had| had.number < bad && had.state == VersionState::Superseded);
        match earlier.map(|had| had.number) {
            None => next.push(self.refused(order, "nothing-before")),
            Some(number) => next.push(self.by(order, |next| {
                next.make_current(number);
                next.set_state(bad, VersionState::RolledBack);
                Progress::WentBack(number, bad)
            })),
        }
    }

    /// Returns the state after this answer to the order. `None` if the answer is not possible.
    fn answered(mut self, order: usize, asked: Order, answer: &Outcome) -> Option<Self> {
        let progress = self.orders.remove(&order)?;
        self.holder = self.holder.filter(|holder| *holder != order);
        let written = self.disk.as_ref() == Some(&(self.configured, self.had.clone()));
        let fits = match (answer, progress) {
            (Outcome::Refused("not-recorded"), Progress::Put(new, before)) => {
                self.watch(new, before);
                true
            }
            (
                Outcome::Refused("not-recorded"),
                Progress::Given(_) | Progress::Back(_) | Progress::WentBack(..),
            ) => true,
            // Nothing was changed.
            (Outcome::Refused(why), Progress::Given(_)) => match *why {
                "plugin" => matches!(
                    asked,
                    Order::Swap(6 | 7) | Order::Canary(6 | 7) | Order::Reload(6 | 7)
                ),
                "too-many" => !matches!(asked, Order::Promote | Order::Stop),
                "overtaken" => self.overtaken.contains(&order),
                _ => false,
            },
            (Outcome::Refused(why), Progress::Refused(known)) => *why == known,
            // The server stopped after the version was published, so the version was rolled back.
            (Outcome::Refused("stopping"), Progress::Back(new)) => self.stopped && new != 0,
            (Outcome::Refused(_), _) => false,
            (Outcome::Did { revision, rolled_back, recorded }, progress) => match progress {
                Progress::Put(new, before) => {
                    self.watch(new, before);
                    *revision == new && !rolled_back && *recorded && written
                }
                // The order was called off.
                Progress::Given(Order::Swap(_) | Order::RollBack) => *revision == 0 && !recorded,
                Progress::Back(0) => *revision == 0 && *rolled_back,
                Progress::Back(new) => *revision == new && *rolled_back && (written || !recorded),
                Progress::Tries(number) => *revision == number && !rolled_back,
                Progress::WentBack(number, _) => {
                    *revision == number && !rolled_back && *recorded && written
                }
                Progress::Done => true,
                Progress::Given(_) | Progress::Refused(_) => false,
            },
        };
        fits.then_some(self)
    }

    fn watch(&mut self, new: u64, before: u64) {
        if new != before && self.current() == new {
            self.watched = Some((new, before));
        }
    }

    /// Returns the state after a kill and a start of another process, whose configuration names
    /// this plugin.
    fn restarted(&self, configured: Number) -> Self {
        let disk = self.disk.clone();
        let mut next = Self::new(configured);
        let Some((named, had)) = &disk else { return next };
        (next.had, next.last) = (had.clone(), had.iter().map(|had| had.number).max().unwrap_or(0));
        next.had
            .iter_mut()
            .filter(|had| had.state == VersionState::Canary)
            .for_each(|had| had.state = VersionState::RolledBack);
        // The configuration changed after the record was written, so its plugin wins.
        if *named != configured && !next.is_current(configured) {
            let number = next.another(configured, VersionState::Superseded);
            next.make_current(number);
        }
        next.disk = disk;
        next
    }

    fn new(configured: Number) -> Self {
        Self {
            configured,
            had: vec![Had { number: 1, plugin: configured, state: VersionState::Current }],
            last: 1,
            canary: None,
            watched: None,
            judged: None,
            faults: 0,
            stopped: false,
            holder: None,
            orders: BTreeMap::new(),
            overtaken: BTreeSet::new(),
            disk: None,
        }
    }
}

/// Set of all states that the server can be in.
pub(super) struct Possible {
    states: BTreeSet<State>,
    asked: BTreeMap<usize, Order>,
    /// Log of orders, answers and observations, for the search of a failure.
    pub(super) story: Vec<String>,
}

impl Possible {
    /// Creates the states of a server that starts with this plugin and without a record.
    pub(super) fn new(configured: Number) -> Self {
        let states = BTreeSet::from([State::new(configured)]);
        Self { states, asked: BTreeMap::new(), story: Vec::new() }
    }

    pub(super) fn gives(&mut self, order: usize, what: Order) {
        self.story.push(format!("{order}: {what:?}"));
        let of_version = |(number, what): (&usize, &Order)| {
            matches!(what, Order::Swap(_) | Order::Canary(_) | Order::RollBack).then_some(*number)
        };
        let cancelled: Vec<_> = match what {
            Order::RollBack => self.asked.iter().filter_map(of_version).collect(),
            _ => Vec::new(),
        };
        self.asked.insert(order, what);
        self.keep(|mut state| {
            state.overtaken.extend(&cancelled);
            state.orders.insert(order, Progress::Given(what));
            Some(state)
        });
    }

    /// Notes that a session of this plugin faulted.
    pub(super) fn faults(&mut self, plugin: Number) {
        self.keep(|mut state| {
            if state.is_current(plugin) {
                state.faults = FAULTS_MIN.min(state.faults + 1);
            }
            Some(state)
        });
    }

    pub(super) fn answers(&mut self, order: usize, answer: &Outcome) {
        self.story.push(format!("{order}: {answer:?}"));
        let asked = self.asked.remove(&order).expect("it was given");
        self.unfold();
        self.keep(|state| state.answered(order, asked, answer));
    }

    pub(super) fn looks(&mut self, look: &WorldView) {
        self.story.push(format!("{look:?}"));
        self.unfold();
        self.keep(|state| (state.had == look.had && state.canary == look.canary).then_some(state));
    }

    /// Notes that the process was killed, in the middle of any work.
    pub(super) fn restarts(&mut self, configured: Number) {
        self.story.push(format!("killed; the configuration names {configured}"));
        self.asked.clear();
        self.unfold();
        self.keep(|state| Some(state.restarted(configured)));
    }

    fn keep(&mut self, keep: impl Fn(State) -> Option<State>) {
        let before = std::mem::take(&mut self.states);
        let shown = before.first().map(|state| format!("{state:?}"));
        self.states = before.into_iter().filter_map(keep).collect();
        assert!(
            !self.states.is_empty(),
            "no order of events explains the last line of:\n{}\none state before: {}",
            self.story.join("\n"),
            shown.unwrap_or_default()
        );
    }

    /// Adds every state that can have followed without being observed.
    fn unfold(&mut self) {
        let mut fresh: Vec<State> = self.states.iter().cloned().collect();
        while let Some(state) = fresh.pop() {
            for next in state.next() {
                if self.states.insert(next.clone()) {
                    fresh.push(next);
                }
            }
        }
    }
}
