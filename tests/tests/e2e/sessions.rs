//! Sessions as an operator sees and steers them, among fifty.

use std::time::Duration;

use wharf::event::{NameError, Priority, SendError};
use wharf::server::{DATA_MAX_BYTES, ServerHandle};
use wharf_tests::clients::Client;
use wharf_tests::guests::{bundled, polite};
use wharf_tests::servers::{ended, eventually, start};

fn crowd(server: &ServerHandle) -> Vec<(u64, Client)> {
    let mut clients: Vec<_> = (0..50).map(|_| Client::connect(server.address())).collect();
    for client in &mut clients {
        client.echo("hello");
    }
    let sessions = server.sessions(0, 100);
    assert_eq!((sessions.len(), server.session_count()), (50, 50));
    let id = |client: &Client| {
        let own = client.0.local_addr().expect("an address");
        sessions.iter().find(|session| session.info.peer == own).expect("its session").info.id
    };
    clients.into_iter().map(|client| (id(&client), client)).collect()
}

#[test]
fn session_statistics_show_activity() {
    let server = start(polite());
    let clients = crowd(&server);
    let (id, _) = clients[7];
    // Three events: the connecting, the byte, and the timer that the guest sets when a client
    // connects.
    eventually("its timer fires", || {
        server.session(id).is_some_and(|session| session.stats.events == 3)
    });
    let session = server.session(id).expect("it lives");
    let stats = session.stats;
    assert_eq!((stats.bytes_in, stats.bytes_out, stats.events, stats.queued_bytes), (5, 5, 3, 0));
    assert_eq!((stats.priority, stats.event), (Priority::Normal, None));
    assert!(
        stats.usage.fuel > 0 && stats.usage.memory_bytes == 128 << 10 && stats.cpu > Duration::ZERO
    );
    assert!(session.plugin.contains("polite"), "{}", session.plugin);
    eventually("it grows idle", || {
        server.session(id).expect("it lives").stats.idle >= Duration::from_millis(20)
    });
    assert!(server.session(9_999).is_none());
}

#[test]
fn sessions_are_listed_in_pages_by_id() {
    let server = start(polite());
    let clients = crowd(&server);
    let mut listed = Vec::new();
    while let page @ [_, ..] = &*server.sessions(listed.last().copied().unwrap_or(0), 7) {
        assert!(page.len() <= 7);
        listed.extend(page.iter().map(|session| session.info.id));
    }
    let mut ids: Vec<_> = clients.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    assert_eq!(listed, ids);
}

#[test]
fn session_name_is_unique_until_its_session_ends() {
    let server = start(polite());
    let clients = crowd(&server);
    let [(one, _), (two, _), ..] = &clients[..] else { unreachable!() };
    server.name_session(*one, "Front Desk").expect("a name");
    assert_eq!(server.find_session("FRONT desk"), Some(*one));
    assert_eq!(server.name_session(*two, "front DESK"), Err(NameError::Taken));
    assert_eq!(server.name_session(*two, &"x".repeat(128)), Err(NameError::TooLong));
    assert_eq!(server.session(*one).expect("it lives").name.as_deref(), Some("front desk"));
    assert!(server.disconnect(*one));
    assert_eq!(server.find_session("front desk"), None);
    server.name_session(*two, "front desk").expect("it is free");
}

#[test]
fn disconnect_and_abort_end_one_session() {
    let server = start(polite());
    let mut clients = crowd(&server);
    let (gone, mut kicked) = clients.remove(3);
    assert!(server.disconnect(gone) && !server.disconnect(gone) && !server.disconnect(9_999));
    assert_eq!(server.session_count(), 49);
    kicked.expect_closed();
    let (gone, mut cut) = clients.remove(3);
    assert!(server.abort(gone));
    cut.expect_reset();
    ended(&server, "evicted", 2);
    for (_, client) in &mut clients {
        client.echo("still here");
    }
}

#[test]
fn abort_ends_a_session_within_its_event() {
    let server = start(bundled("tests/unruly"));
    let mut sleeper = Client::connect(server.address());
    sleeper.send("s");
    let asleep =
        || server.sessions(0, 1).first().filter(|session| session.stats.event.is_some()).cloned();
    eventually("it sleeps", || {
        asleep().is_some_and(|session| session.stats.event == Some("on-read"))
    });
    assert!(server.abort(asleep().expect("it sleeps").info.id));
    sleeper.expect_reset();
    ended(&server, "aborted", 1);
}

#[test]
fn broadcast_reaches_all_sessions_with_room() {
    let server = start(polite());
    let mut clients = crowd(&server);
    // One client does not read and its session is full: more than the sockets and the buffers hold.
    let (full, stuck) = clients.remove(0);
    let piece = vec![b'x'; 64 << 10];
    let mut before = 0;
    eventually("it is full, and the sockets are", || {
        let refused = server.send_to(full, &piece) == Err(SendError::Full);
        std::thread::sleep(Duration::from_millis(if refused { 50 } else { 0 }));
        let sent = server.session(full).expect("it lives").stats.bytes_out;
        refused && std::mem::replace(&mut before, sent) == sent
    });
    let (dead, gone) = clients.remove(0);
    drop(gone);
    eventually("it left", || server.session(dead).is_none());
    assert_eq!(server.broadcast(&piece), 48);
    for (_, client) in &mut clients {
        client.skip(piece.len());
    }
    assert_eq!(server.send_to(dead, b"hello"), Err(SendError::Closed));
    let (id, client) = &mut clients[0];
    server.send_to(*id, b"you").expect("room");
    client.expect("you");
    assert_eq!(server.send_to(*id, &vec![0; 1 << 20]), Err(SendError::TooLarge));
    drop(stuck);
}

#[test]
fn session_class_is_apart_from_server_class() {
    let server = start(polite());
    let mut clients = crowd(&server);
    assert_eq!(server.set_priority(Priority::High), Priority::Normal);
    let (id, client) = &mut clients[0];
    assert_eq!(server.session(*id).expect("it lives").stats.priority, Priority::Normal);
    assert_eq!(server.assign(*id, Priority::Critical), Some(Priority::Normal));
    client.echo("next event");
    assert_eq!(server.session(*id).expect("it lives").stats.priority, Priority::Critical);
    assert_eq!(server.assign(9_999, Priority::Low), None);
    let count = |class: Priority| {
        let classes = server.counters().latencies();
        classes.iter().find(|(other, _)| *other == class).expect("every class").1.count()
    };
    assert_eq!(count(Priority::Critical), 1);
    // The client stays, because the last event of its session would be counted too.
    let mut new_client = Client::connect(server.address());
    new_client.echo("new");
    assert_eq!(count(Priority::High), 2);
}

#[test]
fn server_keeps_a_text_for_its_operator() {
    let server = start(polite());
    server.set_data("rack 7").expect("room");
    assert_eq!(server.data(), "rack 7");
    assert!(server.set_data("x".repeat(DATA_MAX_BYTES + 1)).is_err());
    assert_eq!(server.data(), "rack 7");
}

#[test]
fn empty_and_tiny_mail_is_bounded() {
    let server = start(polite());
    let client = Client::connect(server.address());
    eventually("it is in", || server.session_count() == 1);
    let id = server.sessions(0, 1)[0].info.id;
    for _ in 0..100_000 {
        assert_eq!(server.send_to(id, b""), Ok(()));
    }
    let piece = vec![b'x'; 64 << 10];
    eventually("the sockets are full", || {
        server.send_to(id, &piece) == Err(SendError::Full)
            && server.session(id).is_some_and(|session| session.stats.queued_bytes >= 256 << 10)
    });
    // Single bytes soon use up the remaining room: each counts with the memory that keeps it.
    let taken = (0..100_000).filter(|_| server.send_to(id, b"x").is_ok()).count();
    assert!(taken < 10_000, "{taken} pieces");
    drop(client);
}

#[test]
fn same_plugin_is_kept_once() {
    use wharf::plugin::Grants;
    let file = wharf_tests::guests::file("kept-once", &wharf_tests::guests::component(""));
    let loader = wharf_tests::servers::host().loader().clone();
    let share = || loader.share(&file, &Grants::none()).expect("it loads");
    let first = share();
    assert!(std::sync::Arc::ptr_eq(&first, &share()));
    std::fs::write(
        &file,
        wharf_tests::guests::component("(func $on-end (result i32) (i32.const 2))"),
    )
    .expect("kept");
    assert!(!std::sync::Arc::ptr_eq(&first, &share()));
}
