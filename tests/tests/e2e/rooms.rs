//! The chat plugin: sessions that talk to each other, and migrate together.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use wharf::server::{ServerHandle, SwapPolicy};
use wharf_tests::clients::Client;
use wharf_tests::guests::{bundled, rebuilt};
use wharf_tests::servers::{describe, swap};

const PEOPLE: usize = 12;

/// Connects a client and sends its name.
fn enter(server: &ServerHandle, name: &str) -> Client {
    let mut client = Client::connect(server.address());
    client.expect("* your name?\n").send(format!("{name}\n"));
    client
}

#[test]
fn chat_lines_arrive_once_during_atomic_migrations() {
    let server = describe(bundled("plugins/chat")).start().expect("it starts");
    let people: Vec<_> = (0..PEOPLE).map(|number| enter(&server, &format!("p{number}"))).collect();
    let (done, over, barrier) =
        (AtomicBool::new(false), AtomicBool::new(false), Barrier::new(PEOPLE));
    thread::scope(|scope| {
        let (done, over, barrier) = (&done, &over, &barrier);
        for (number, mut person) in people.into_iter().enumerate() {
            let lines = BufReader::new(person.0.try_clone().expect("the same connection")).lines();
            let mut said = lines
                .map(|line| line.expect("the room is open"))
                .filter(|line| !line.starts_with("* "));
            scope.spawn(move || {
                for round in 0.. {
                    person.send(format!("{round}\n"));
                    let heard: BTreeSet<String> = said.by_ref().take(PEOPLE - 1).collect();
                    let others = (0..PEOPLE).filter(|other| *other != number);
                    assert_eq!(heard, others.map(|other| format!("p{other}: {round}")).collect());
                    // All clients wait here until each has read this round, because slow readers
                    // miss lines.
                    if barrier.wait().is_leader() {
                        over.store(done.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                    barrier.wait();
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        for round in 0..10 {
            let report = swap(
                &server,
                rebuilt("plugins/chat", &round.to_string()),
                SwapPolicy::AllOrNothing,
            );
            assert_eq!(
                (report.moved, report.stayed.len(), report.ended),
                (PEOPLE, 0, 0),
                "{report:?}"
            );
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(server.counters().faults.is_empty(), "{:?}", server.counters().faults);
}

#[test]
fn chat_name_is_unique_until_its_user_leaves() {
    let server = describe(bundled("plugins/chat")).start().expect("it starts");
    let mut ann = enter(&server, "ann");
    ann.expect("* welcome, ann; others here: 0\n");
    let mut bob = enter(&server, "ANN");
    bob.expect("* somebody else has that name; yours?\n")
        .send("bob\n")
        .expect("* welcome, bob; others here: 1\n");
    ann.expect("* bob came\n").send("/to bob psst\n");
    bob.expect("ann (to you): psst\n").send("/quit\n").finish();
    ann.expect("* bob left\n");
}
