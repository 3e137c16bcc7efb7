//! A copy of an event, which outlives the event's buffer.

use super::Event;

/// An event with bytes of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptEvent {
    /// The event without its bytes, if it has any.
    event: Event<'static>,
    bytes: Vec<u8>,
}

impl KeptEvent {
    /// Copies an event. Returns `None` if there is no memory for its bytes.
    #[must_use]
    pub fn of(event: Event<'_>) -> Option<Self> {
        let mut bytes = Vec::new();
        let event = match event {
            Event::Read(data) => {
                bytes.try_reserve_exact(data.len()).ok()?;
                bytes.extend_from_slice(data);
                Event::Read(&[])
            }
            Event::Connect => Event::Connect,
            Event::Write => Event::Write,
            Event::Timeout { idle_ms } => Event::Timeout { idle_ms },
            Event::Timer { id } => Event::Timer { id },
            Event::End => Event::End,
            Event::Disconnect(reason) => Event::Disconnect(reason),
        };
        Some(Self { event, bytes })
    }

    /// Returns the event.
    #[must_use]
    pub fn event(&self) -> Event<'_> {
        match self.event {
            Event::Read(_) => Event::Read(&self.bytes),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::DisconnectReason;

    #[test]
    fn kept_event_is_the_event() {
        let events = [
            Event::Connect,
            Event::Read(b"bytes"),
            Event::Write,
            Event::Timeout { idle_ms: 1 },
            Event::Timer { id: 2 },
            Event::End,
            Event::Disconnect(DisconnectReason::PeerClosed),
        ];
        for event in events {
            assert_eq!(KeptEvent::of(event).expect("there is memory").event(), event);
        }
    }
}
