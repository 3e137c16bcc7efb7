//! Numbers of closed sessions, of another server's, and of none. A guest reaches a session of its
//! own server, or none.

use std::io::ErrorKind;
use std::time::Duration;

use wharf::plugin::Grant;
use wharf::server::ServerHandle;
use wharf_tests::clients::Client;
use wharf_tests::imports::granted;
use wharf_tests::oracle::{balanced, judge};
use wharf_tests::servers::{describe, ended, eventually, start};

/// Answers of `send-to` and `disconnect`.
const TAKEN: u8 = 0;
const CLOSED: u8 = 1;

fn guest() -> std::sync::Arc<wharf::plugin::Plugin> {
    granted("stranger", &[Grant::Server])
}

fn ask(client: &mut Client, what: u8, id: u64) -> u8 {
    let mut message = vec![what; 8];
    message.extend_from_slice(&id.to_le_bytes());
    let mut answer = [0];
    std::io::Read::read_exact(&mut client.send(message).0, &mut answer).expect("an answer");
    answer[0]
}

fn enter(server: &ServerHandle) -> (u64, Client) {
    let before = server.session_count();
    let mut client = Client::connect(server.address());
    client.echo("e in");
    assert_eq!(server.session_count(), before + 1);
    let own = client.0.local_addr().expect("an address");
    let sessions = server.sessions(0, 1_000);
    (sessions.iter().find(|session| session.info.peer == own).expect("its session").info.id, client)
}

/// Numbers near those in use, near every power of two, and the greatest.
fn numbers() -> Vec<u64> {
    let powers = (0..64).map(|bit| 1_u64 << bit);
    let near = powers.flat_map(|power| [power.wrapping_sub(1), power, power.wrapping_add(1)]);
    // Numbers that a truncation to 32 bits would take for a session's.
    let wide = (0..40).flat_map(|id| [id, (1 << 32) | id, (1 << 63) | id, id << 32]);
    let mut all: Vec<_> = near.chain(wide).chain([u64::MAX, u64::MAX - 1]).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn number_reaches_only_sessions_of_its_server() {
    let counters = judge(
        || describe(guest()),
        |server| {
            let other = start(guest());
            let mut theirs: Vec<_> = (0..12).map(|_| enter(&other)).collect();
            let (own, mut asking) = enter(server);
            let mut friends: Vec<_> = (0..6).map(|_| enter(server)).collect();
            // Every other friend leaves. Its number then names a closed session here and a live one
            // on the other server.
            for at in (0..3).rev() {
                drop(friends.remove(at * 2));
            }
            ended(server, "peer-closed", 3);

            let known: Vec<_> = friends.iter().map(|(id, _)| *id).chain([own]).collect();
            let reached = |id: u64| known.contains(&id);
            let mut to_itself = 0;
            for id in numbers() {
                let expected = if reached(id) { TAKEN } else { CLOSED };
                if id == own {
                    // Bytes that the session sends to itself may come before or after the answer.
                    asking.send([&[b's'; 8][..], &id.to_le_bytes()].concat()).skip(2);
                    to_itself += 1;
                    continue;
                }
                assert_eq!(ask(&mut asking, b's', id), expected, "sending to {id}");
            }
            assert_eq!(to_itself, 1);
            for (_, friend) in &mut friends {
                friend.expect("s").echo("e only that");
            }
            for id in numbers().into_iter().filter(|id| !reached(*id)) {
                assert_eq!(ask(&mut asking, b'd', id), CLOSED, "ending {id}");
            }
            // A session cannot end itself by its number.
            assert_eq!(ask(&mut asking, b'd', own), CLOSED);
            for (id, friend) in &mut friends {
                assert_eq!(
                    [ask(&mut asking, b'd', *id), ask(&mut asking, b'd', *id)],
                    [TAKEN, CLOSED]
                );
                assert_eq!(ask(&mut asking, b's', *id), CLOSED);
                friend.expect_closed();
            }
            // No session of the other server was reached.
            for (_, client) in &mut theirs {
                client.echo("e untouched");
                client.0.set_read_timeout(Some(Duration::from_millis(1))).expect("a deadline");
                let more = std::io::Read::read(&mut client.0, &mut [0]);
                assert!(more.is_err_and(|error| matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut
                )));
            }
            drop(theirs);
            eventually("they left", || other.clients() == 0);
            assert_eq!(other.counters().ended.get("peer-closed"), Some(&12));
            balanced(&other.counters());
            asking.finish().expect_closed();
        },
    );
    assert_eq!((counters.ended["peer-closed"], counters.ended["evicted"]), (4, 3), "{counters:?}");
    assert!(counters.faults.is_empty(), "{counters:?}");
}
