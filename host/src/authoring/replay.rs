//! Plays a transcript against a plugin without sockets, and counts what each event costs.

use std::sync::Arc;
use std::time::Duration;

use super::mock_session::{MockSession, WRITTEN_MAX_BYTES};
use super::transcript::{Act, Transcript};
use crate::event::{
    Action, Budget, DisconnectReason, Event, Instance, Priority, Procedure, READ_MAX_BYTES,
};
use crate::plugin::{Binding, EventProcedure, InstanceLimits, Plugin, PluginInstance};
use crate::sched::{Budgets, thread_time};

/// How many timers may fire while one line waits for its answer.
const TIMERS_MAX: usize = 1_000;

/// The name under which the cost of an instance's start is listed.
pub const START: &str = "start";

/// How a transcript is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// The client's bytes arrive in the pieces that it sends.
    Whole,
    /// Each byte arrives by itself.
    SingleBytes,
    /// As [`Manner::Whole`], and the session migrates to a new instance before each event.
    HandedOver,
    /// As [`Manner::Whole`], on an instance that serves another session already.
    Shared,
}

/// The cost of one call of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// The line of the transcript that caused the call. 0 if the call comes before the first line.
    pub line: usize,
    /// The event, or `start`, `save` or `restore`.
    pub event: &'static str,
    /// Bytes that were passed to the call; for `save`, bytes that it returned.
    pub bytes: usize,
    /// Fuel that the call used.
    pub fuel: u64,
    /// CPU time that the call used.
    pub cpu: Duration,
    /// Linear memory after the call, in bytes.
    pub memory_bytes: u64,
}

impl Cost {
    /// The lowest class whose budget the call fits in, or `None` if it fits in none.
    #[must_use]
    pub fn fits(&self) -> Option<Priority> {
        let budgets = Budgets::default();
        let budget =
            |class| if self.event == START { budgets.start(class) } else { budgets.event(class) };
        let fits =
            |class: &Priority| self.fuel <= budget(*class).fuel && self.cpu <= budget(*class).cpu;
        Priority::ALL.into_iter().find(fits)
    }
}

/// The result of playing a transcript.
#[derive(Debug, Default)]
pub struct Replay {
    /// The cost of each call, in order.
    pub costs: Vec<Cost>,
    /// The first problem: its line, what was expected and what was found.
    pub problem: Option<String>,
    /// Bytes that the plugin wrote and no line expects.
    pub unexpected: usize,
}

/// Plays a transcript on this thread. Events have the budget of the highest class.
pub async fn rehearse(
    plugin: &Arc<Plugin>,
    story: &Transcript,
    limits: InstanceLimits,
    manner: Manner,
) -> Replay {
    let binding = Binding {
        server: "test".into(),
        settings: story.settings.iter().cloned().collect(),
        limits,
        shards: usize::from(manner == Manner::Shared),
        ..Binding::default()
    };
    let procedure = EventProcedure::new(Arc::clone(plugin), binding);
    let mut player = Player {
        procedure,
        session: MockSession::new(1),
        manner,
        instance: None,
        ended: None,
        costs: Vec::new(),
    };
    let problem = player.play(story).await.err();
    Replay { costs: player.costs, problem, unexpected: player.session.waiting() }
}

struct Player {
    procedure: EventProcedure,
    session: Arc<MockSession>,
    manner: Manner,
    instance: Option<PluginInstance>,
    /// How the plugin ended the session, in which event and at which line.
    ended: Option<(Action, &'static str, usize)>,
    costs: Vec<Cost>,
}

impl Player {
    async fn play(&mut self, story: &Transcript) -> Result<(), String> {
        let budget = Budgets::default().start(Priority::Critical);
        // The other session comes first, so that the costs are those of a session that joins a
        // shared instance.
        let _beside =
            if self.manner == Manner::Shared { Some(self.another(budget).await?) } else { None };
        let (begin, scope) = (thread_time(), self.session.scope());
        let instance = within(budget, self.procedure.instantiate(scope, budget)).await;
        let instance = instance.map_err(|problem| format!("it does not start: {problem}"))?;
        self.count(0, START, 0, instance.usage().fuel, begin, &instance);
        self.instance = Some(instance);
        self.event(0, Event::Connect).await?;
        for (line, act) in &story.acts {
            self.act(*line, act).await.map_err(|problem| format!("line {line}: {problem}"))?;
        }
        let last = story.acts.last().map_or(0, |(line, _)| *line);
        if self.ended.is_none() {
            self.event(last, Event::End).await?;
            self.timers_until(last, |_| false).await?;
        }
        self.session.close();
        let reason = match self.ended {
            Some((Action::Abort, ..)) => DisconnectReason::ClosedByPlugin,
            _ => DisconnectReason::PeerClosed,
        };
        self.event(last, Event::Disconnect(reason)).await
    }

    /// Starts another session on the same instance.
    async fn another(&self, budget: Budget) -> Result<PluginInstance, String> {
        let mut another =
            within(budget, self.procedure.instantiate(MockSession::new(2).scope(), budget)).await?;
        within(budget, another.dispatch(Event::Connect, budget)).await?;
        Ok(another)
    }

    async fn act(&mut self, line: usize, act: &Act) -> Result<(), String> {
        match act {
            Act::Send(data) => {
                let size = if self.manner == Manner::SingleBytes { 1 } else { READ_MAX_BYTES };
                for piece in data.chunks(size) {
                    // After the plugin ended the session, the client's bytes are dropped.
                    if self.ended.is_none() {
                        self.event(line, Event::Read(piece)).await?;
                    }
                }
                Ok(())
            }
            Act::Expect(data) => {
                self.timers_until(line, |session| session.waiting() >= data.len()).await?;
                let seen = self.session.take(data.len());
                if seen == *data {
                    Ok(())
                } else {
                    Err(format!("{}{}", differ(data, &seen), self.after()))
                }
            }
            Act::Finish if self.ended.is_none() => self.event(line, Event::End).await,
            Act::Finish => Ok(()),
            Act::Closed => {
                self.timers_until(line, |_| false).await?;
                match self.ended {
                    Some((Action::Close, ..)) if self.session.waiting() == 0 => Ok(()),
                    Some((Action::Close, ..)) => Err(differ(b"", &self.session.take(usize::MAX))),
                    Some(_) => {
                        Err(format!("expected the plugin to close the session{}", self.after()))
                    }
                    None => {
                        Err("expected the plugin to close the session, it keeps it open".into())
                    }
                }
            }
        }
    }

    /// Fires timers until `is_enough` holds, the plugin ends the session, or no timer is set.
    async fn timers_until(
        &mut self,
        line: usize,
        is_enough: impl Fn(&MockSession) -> bool,
    ) -> Result<(), String> {
        for _ in 0..TIMERS_MAX {
            if is_enough(&self.session) || self.ended.is_some() {
                break;
            }
            let Some(id) = self.session.next_timer() else { break };
            self.event(line, Event::Timer { id }).await?;
        }
        Ok(())
    }

    /// A sentence on how the plugin ended the session. Empty if the session is open.
    fn after(&self) -> String {
        let name = |action| if action == Action::Abort { "aborted" } else { "closed" };
        let said = |(action, event, line)| {
            format!("; the plugin had {} the session in {event} of line {line}", name(action))
        };
        self.ended.map(said).unwrap_or_default()
    }

    async fn event(&mut self, line: usize, event: Event<'_>) -> Result<(), String> {
        let is_first = event == Event::Connect;
        if self.manner == Manner::HandedOver && !is_first && self.ended.is_none() {
            self.migrate(line).await?;
        }
        let Some(mut instance) = self.instance.take() else {
            return Err("its instance is gone".into());
        };
        let budget = Budgets::default().event(Priority::Critical);
        let (before, begin) = (instance.usage().fuel, thread_time());
        let outcome = within(budget, instance.dispatch(event, budget)).await;
        let action = outcome.map_err(|problem| format!("{}: {problem}", event.name()))?;
        if self.session.overflowed() {
            return Err(format!(
                "{}: it wrote more than {WRITTEN_MAX_BYTES} bytes that no line expects",
                event.name()
            ));
        }
        let bytes = if let Event::Read(data) = event { data.len() } else { 0 };
        self.count(line, event.name(), bytes, instance.usage().fuel - before, begin, &instance);
        self.instance = Some(instance);
        if action != Action::Proceed && !matches!(event, Event::Disconnect(_)) {
            self.ended = Some((action, event.name(), line));
        }
        Ok(())
    }

    /// Migrates the session to a new instance, as a swap does.
    async fn migrate(&mut self, line: usize) -> Result<(), String> {
        let Some(mut old) = self.instance.take() else { return Err("its instance is gone".into()) };
        let (start, budget) = (
            Budgets::default().start(Priority::Critical),
            Budgets::default().event(Priority::Critical),
        );
        let (before, begin) = (old.usage().fuel, thread_time());
        let state =
            within(budget, old.save(budget)).await.map_err(|problem| format!("save: {problem}"))?;
        self.count(line, "save", state.len(), old.usage().fuel - before, begin, &old);
        let (begin, bytes) = (thread_time(), state.len());
        let version = self.procedure.version().to_owned();
        let taken = self.procedure.take_over(self.session.scope(), start, budget, &version, state);
        let fresh = within(start, taken).await.map_err(|problem| format!("restore: {problem}"))?;
        self.count(line, "restore", bytes, fresh.usage().fuel, begin, &fresh);
        self.instance = Some(fresh);
        Ok(())
    }

    fn count(
        &mut self,
        line: usize,
        event: &'static str,
        bytes: usize,
        fuel: u64,
        begin: Duration,
        of: &PluginInstance,
    ) {
        let (cpu, memory_bytes) = (thread_time().saturating_sub(begin), of.usage().memory_bytes);
        self.costs.push(Cost { line, event, bytes, fuel, cpu, memory_bytes });
    }
}

/// Waits for a call for the wall time of its budget at most.
async fn within<T>(
    budget: Budget,
    call: impl Future<Output = Result<T, crate::event::Fault>>,
) -> Result<T, String> {
    match tokio::time::timeout(budget.wall, call).await {
        Ok(outcome) => outcome.map_err(|fault| fault.to_string()),
        Err(_) => Err(format!("it took longer than {:?}", budget.wall)),
    }
}

/// Most bytes shown of a mismatch, from shortly before the first difference.
const SHOWN_MAX_BYTES: usize = 200;

fn differ(expected: &[u8], seen: &[u8]) -> String {
    let same = expected.iter().zip(seen).take_while(|(one, other)| one == other).count();
    let from = if expected.len().max(seen.len()) > SHOWN_MAX_BYTES {
        same.saturating_sub(SHOWN_MAX_BYTES / 4)
    } else {
        0
    };
    let show = |bytes: &[u8]| {
        let shown = bytes.get(from..).unwrap_or_default();
        let dots = |cut| if cut { "..." } else { "" };
        let (before, after) = (dots(from > 0), dots(shown.len() > SHOWN_MAX_BYTES));
        format!("\"{before}{}{after}\"", shown[..shown.len().min(SHOWN_MAX_BYTES)].escape_ascii())
    };
    let place = if from > 0 { format!(", from byte {same} on") } else { String::new() };
    format!("expected {}, found {}{place}", show(expected), show(seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_is_shown_where_it_begins() {
        assert_eq!(differ(b"A\n", b""), "expected \"A\\n\", found \"\"");
        let (expected, mut seen) = (vec![b'a'; 1 << 20], vec![b'a'; 1 << 20]);
        seen[1 << 19] = b'b';
        let said = differ(&expected, &seen);
        assert!(
            said.len() < 1_000 && said.contains("from byte 524288 on") && said.contains("aabaa"),
            "{}",
            said.len()
        );
        assert!(differ(&expected, b"").ends_with("found \"\""));
    }
}
