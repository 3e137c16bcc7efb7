//! The life of a session: order of events, backpressure in both directions, half-close, timers,
//! timeouts, and the true reason.

use std::io::Read;
use std::time::Duration;

use wharf::session::Watermarks;
use wharf_tests::clients::Client;
use wharf_tests::guests::{guest, inline, polite};
use wharf_tests::servers::{describe, ended, eventually, start};

#[test]
fn events_come_in_order_and_each_once() {
    let server =
        describe(guest("journal")).timeout(Duration::from_millis(150)).start().expect("it starts");
    let mut client = Client::connect(server.address());
    // Connect, the timer that it set, then a timeout for each idle period until the plugin closes.
    client.expect("citt");
    client.expect("t").expect_closed();
    ended(&server, "closed-by-plugin", 1);

    // Without idle periods. The byte or the timer may come first.
    let server = start(guest("journal"));
    let mut client = Client::connect(server.address());
    let mut both = client.expect("c").send("x").take(2);
    both.sort_unstable();
    assert_eq!(both, b"ir");
    client.finish().expect("e").expect_closed();
    ended(&server, "peer-closed", 1);
}

#[test]
fn bytes_before_a_half_close_are_answered() {
    let server = start(polite());
    let mut client = Client::connect(server.address());
    let message = vec![b'x'; 200_000];
    client.send(&message).finish();
    client.expect(&message).expect_closed();
    ended(&server, "peer-closed", 1);
}

#[test]
fn plugin_may_answer_long_after_half_close() {
    let server = start(guest("late-answer"));
    let mut client = Client::connect(server.address());
    client.finish();
    client.expect("late").expect_closed();
    ended(&server, "closed-by-plugin", 1);
}

#[test]
fn silent_half_open_session_is_ended() {
    let silent = inline("silent-end", "(func $on-end (result i32) (i32.const 0))");
    let server = describe(silent).timeout(Duration::from_millis(100)).start().expect("it starts");
    let mut client = Client::connect(server.address());
    client.finish().expect_closed();
    ended(&server, "idle-timeout", 1);
}

#[test]
fn idle_client_is_not_dropped_by_itself() {
    let server = describe(polite()).timeout(Duration::from_millis(50)).start().expect("it starts");
    let mut client = Client::connect(server.address());
    client.echo("one");
    // Several idle periods, which the plugin answers with `proceed`.
    std::thread::sleep(Duration::from_millis(300));
    client.echo("two");
}

#[test]
fn closing_flushes_and_aborting_resets() {
    let server = start(polite());
    Client::connect(server.address()).echo("before").send("C").expect_closed();
    ended(&server, "closed-by-plugin", 1);
    Client::connect(server.address()).echo("before").send("A").expect_reset();
    ended(&server, "closed-by-plugin", 2);
}

#[test]
fn closing_flushes_megabytes_to_a_slow_reader() {
    // The plugin fills the send buffer and closes in the same event.
    let body = "(func $on-read (param $data i32) (param $length i32) (result i32)
        (loop $more
          (drop (call $try-write (i32.const 2048) (i32.const 32768)))
          (br_if $more (call $write-capacity)))
        (i32.const 1))";
    let server = start(inline("fill-and-close", body));
    let mut client = Client::connect(server.address());
    client.send("x");
    ended(&server, "closed-by-plugin", 0);
    let (seen, outcome) = client.rest();
    assert!(outcome.is_ok(), "{outcome:?}");
    assert!(seen.len() >= 256 << 10 && seen.len() % 32_768 == 0, "{} bytes", seen.len());
    ended(&server, "closed-by-plugin", 1);
}

#[test]
fn reset_by_the_peer_has_its_reason() {
    let server = start(polite());
    let mut client = Client::connect(server.address());
    client.echo("hello");
    socket_linger_zero(&client);
    drop(client);
    ended(&server, "peer-reset", 1);
}

fn socket_linger_zero(client: &Client) {
    rustix::net::sockopt::set_socket_linger(&client.0, Some(Duration::ZERO)).expect("an option");
}

#[test]
fn send_buffer_drains_with_one_event() {
    let server = start(polite());
    let mut client = Client::connect(server.address());
    client.send("F");
    // The client reads only after the event. Otherwise the plugin would write until its budget
    // ends. The other two events are the connecting and the timer that the guest sets then.
    eventually("the buffer is full", || {
        let session = server.sessions(0, 1).pop();
        session.is_some_and(|session| (session.stats.events, session.stats.event) == (3, None))
    });
    // The kernel takes megabytes before the buffer fills. Then the plugin's event ends with the
    // buffer full.
    let (mut total, mut piece) = (0, vec![0; 1 << 16]);
    loop {
        let count = client.0.read(&mut piece).expect("data");
        total += count;
        // `on-write` answers with a letter that nothing else sends.
        if piece[..count].contains(&b'w') {
            break;
        }
    }
    assert!(total > 256 << 10, "{total} bytes");
    client.echo("still open");
}

#[test]
fn deaf_peer_is_not_read_and_costs_little() {
    let marks = Watermarks { high_bytes: 64 << 10, low_bytes: 16 << 10 };
    let server = describe(polite())
        .watermarks(marks)
        .timeout(Duration::from_millis(500))
        .start()
        .expect("it starts");
    let client = Client::connect(server.address());
    client.0.set_nonblocking(true).expect("an option");
    let (mut sent, piece) = (0_usize, vec![b'x'; 1 << 16]);
    // The client never reads the echo, so the server stops reading, and then the kernel stops
    // taking.
    loop {
        use std::io::Write;
        match (&client.0).write(&piece) {
            Ok(count) => sent += count,
            Err(_) if server.counters().ended.contains_key("write-timeout") => break,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        assert!(sent < 64 << 20, "the server reads without end");
    }
    ended(&server, "write-timeout", 1);
}

#[test]
fn waiting_write_holds_back_only_its_session() {
    let server =
        describe(guest("write-flood")).timeout(Duration::from_secs(10)).start().expect("it starts");
    let mut stuck = Client::connect(server.address());
    stuck.send("go");
    let mut other = Client::connect(server.address());
    other.send("go").skip(1 << 20);
    let (mut seen, mut piece) = (0, vec![0; 1 << 16]);
    while seen < 8 << 20 {
        seen += stuck.0.read(&mut piece).expect("the flood goes on once the client reads");
    }
}

#[test]
fn unread_write_times_out() {
    let server = describe(guest("write-flood"))
        .timeout(Duration::from_millis(200))
        .start()
        .expect("it starts");
    let mut stuck = Client::connect(server.address());
    stuck.send("go");
    ended(&server, "write-timeout", 1);
    assert_eq!(server.counters().faults.len(), 0);
}

#[test]
fn reset_wakes_a_waiting_write() {
    let server =
        describe(guest("write-flood")).timeout(Duration::from_secs(60)).start().expect("it starts");
    let mut stuck = Client::connect(server.address());
    stuck.send("go").skip(1 << 16);
    drop(stuck);
    ended(&server, "peer-reset", 1);
}

#[test]
fn stop_with_a_stuck_writer_is_bounded() {
    let server =
        describe(guest("write-flood")).timeout(Duration::from_secs(60)).start().expect("it starts");
    let mut stuck = Client::connect(server.address());
    stuck.send("go").skip(1 << 16);
    server.stop_blocking(Duration::from_millis(200));
    assert_eq!(server.clients(), 0);
    let ended = server.counters().ended;
    assert!(
        ended.contains_key("drain-deadline") || ended.contains_key("server-stopped"),
        "{ended:?}"
    );
}

#[test]
fn stop_does_not_wait_for_unread_farewell() {
    let marks = Watermarks { high_bytes: 64 << 10, low_bytes: 16 << 10 };
    let server = describe(polite())
        .watermarks(marks)
        .timeout(Duration::from_secs(600))
        .start()
        .expect("it starts");
    let client = Client::connect(server.address());
    client.0.set_nonblocking(true).expect("an option");
    // The client sends until the unread echo has filled every buffer on the way to the plugin.
    let (piece, mut stuck) = (vec![b'x'; 1 << 16], 0);
    while stuck < 50 {
        use std::io::Write;
        match (&client.0).write(&piece) {
            Ok(_) => stuck = 0,
            Err(_) => stuck += 1,
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let start = std::time::Instant::now();
    server.stop_blocking(Duration::from_millis(300));
    assert!(start.elapsed() < Duration::from_secs(5), "stopping took {:?}", start.elapsed());
    assert_eq!(
        server.counters().ended.get("server-stopped"),
        Some(&1),
        "{:?}",
        server.counters().ended
    );
}

#[test]
fn sessions_run_in_parallel_each_in_order() {
    let server = start(polite());
    let address = server.address();
    let clients: Vec<_> = (0..16)
        .map(|number: u8| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                for round in 0..200_u32 {
                    let message: Vec<u8> = (0..round % 97 + 1)
                        .map(|at| b'a' + ((u32::from(number) + round + at) % 26) as u8)
                        .collect();
                    client.echo(&message);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("no client fails"));
    eventually("all are gone", || server.clients() == 0);
    assert_eq!(server.counters().ended.get("peer-closed"), Some(&16));
}
