//! The order of events, for every sequence of happenings at a session:
//!
//! - connect comes first;
//! - one event runs at a time;
//! - there is exactly one disconnect, and nothing after it;
//! - nothing follows a fault.

use proptest::prelude::*;
use wharf::event::{Action, DisconnectReason, EndReason, FaultKind};
use wharf::session::{How, Machine, Occasion, Step};

/// An occurrence in a session.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Offer(Occasion),
    End(DisconnectReason, How),
    Return(Result<Action, FaultKind>),
    Flush(Result<(), DisconnectReason>),
}

fn happening() -> impl Strategy<Value = Happening> {
    let occasion = prop_oneof![
        Just(Occasion::Read),
        Just(Occasion::Write),
        Just(Occasion::Timeout),
        Just(Occasion::Timer),
        Just(Occasion::End),
    ];
    let reason = prop_oneof![
        Just(DisconnectReason::PeerReset),
        Just(DisconnectReason::Evicted),
        Just(DisconnectReason::ServerStopped),
        Just(DisconnectReason::WriteTimeout),
    ];
    let how = prop_oneof![Just(How::Flush), Just(How::Reset)];
    let outcome = prop_oneof![
        6 => Just(Ok(Action::Proceed)),
        1 => Just(Ok(Action::Close)),
        1 => Just(Ok(Action::Abort)),
        1 => Just(Err(FaultKind::Fuel)),
    ];
    prop_oneof![
        6 => occasion.prop_map(Happening::Offer),
        1 => (reason.clone(), how).prop_map(|(reason, how)| Happening::End(reason, how)),
        6 => outcome.prop_map(Happening::Return),
        1 => prop_oneof![Just(Ok(())), reason.prop_map(Err)].prop_map(Happening::Flush),
    ]
}

/// The events that the plugin saw.
#[derive(Debug, Default)]
struct Seen {
    connects: usize,
    disconnects: usize,
    ends: usize,
    in_flight: bool,
    faulted: bool,
    last_was_disconnect: bool,
}

impl Seen {
    fn event(&mut self) {
        assert!(!self.in_flight, "events overlap");
        assert!(!self.faulted, "a dead instance is told something");
        assert!(!self.last_was_disconnect, "something follows the disconnect");
        self.in_flight = true;
    }
}

fn play(story: &[Happening]) -> (Machine, Seen) {
    let (mut machine, mut seen) = (Machine::default(), Seen::default());
    for happening in story {
        // Like the driver, this does at once what the machine asks for by itself.
        match machine.step() {
            Step::Connect => {
                seen.event();
                seen.connects += 1;
                machine.connecting();
            }
            Step::Disconnect(_) => {
                seen.event();
                seen.disconnects += 1;
                seen.last_was_disconnect = true;
                machine.closing();
            }
            _ => {}
        }
        match (*happening, machine.step()) {
            (Happening::Offer(occasion), _) => {
                let open = machine.step() == Step::Listen;
                let half_closed = machine.half_closed();
                if machine.offer(occasion) {
                    assert!(open, "an event without a listener");
                    assert!(
                        !(half_closed && occasion == Occasion::Read),
                        "a read after the peer's end"
                    );
                    seen.event();
                    seen.ends += usize::from(occasion == Occasion::End);
                }
            }
            (Happening::End(reason, how), _) => machine.end(reason, how),
            (Happening::Return(outcome), Step::Await) => {
                seen.in_flight = false;
                seen.faulted |= outcome.is_err();
                machine.returned(outcome);
            }
            (Happening::Flush(outcome), Step::Flush) => machine.flushed(outcome),
            _ => {}
        }
    }
    (machine, seen)
}

/// Appends the end of a session to a story.
fn finish(story: &mut Vec<Happening>) {
    story.push(Happening::End(DisconnectReason::ServerStopped, How::Flush));
    for _ in 0..4 {
        story.push(Happening::Return(Ok(Action::Proceed)));
        story.push(Happening::Flush(Ok(())));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_events_holds_in_every_story(mut story in prop::collection::vec(happening(),
        0..60)) {
        finish(&mut story);
        let (machine, seen) = play(&story);
        prop_assert!(matches!(machine.step(), Step::Over(_)), "it never ends: {:?}", machine);
        prop_assert!(seen.ends <= 1 && !seen.in_flight);
        let Some(ending) = machine.ending() else { return Err(TestCaseError::fail("no reason")) };
        match ending.reason {
            // There is one disconnect for each connect.
            EndReason::Disconnect(_) => prop_assert_eq!(seen.disconnects, seen.connects),
            EndReason::Fault(_) | EndReason::Moved => prop_assert_eq!(seen.disconnects, 0),
        }
    }
}
