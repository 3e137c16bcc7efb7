//! Packets against the bundled plugins, which answer in bounded slices: no packet is a fault in any
//! class. See `wharf_tests::packets`.

use wharf_tests::guests::bundled;
use wharf_tests::packets::{Amount, Subject, chatter, feed, lines, repeated, requests};

/// Feeds one bundled plugin with all packets, and prints the fuel of its dearest event.
fn unharmed(
    folder: &str,
    settings: &[(&str, &str)],
    first: &[u8],
    messages: &[Vec<u8>],
    amount: Amount,
) {
    let most = feed(&Subject::new(&bundled(folder), settings), first, messages, amount);
    println!("{folder}: {most} fuel in the dearest event");
}

#[test]
fn echo_answers_every_packet() {
    unharmed("plugins/echo", &[], b"", &lines(), Amount::ALL);
}

#[test]
fn lines_answers_every_packet() {
    unharmed("plugins/lines", &[], b"", &lines(), Amount::ALL);
}

#[test]
fn lines_answers_every_packet_with_long_lines() {
    unharmed(
        "plugins/lines",
        &[("line-max-bytes", "65536")],
        b"half a line",
        &lines(),
        Amount::SOME,
    );
}

#[test]
fn http_answers_every_packet() {
    unharmed("plugins/http", &[], b"", &requests(), Amount::ALL);
}

#[test]
fn http_answers_every_packet_with_large_bodies() {
    let body = "x".repeat(100_000);
    unharmed("plugins/http", &[("body", &body), ("path", "/")], b"", &requests(), Amount::SOME);
}

#[test]
fn chat_answers_every_packet_before_a_name() {
    unharmed("plugins/chat", &[], b"", &chatter(), Amount::SOME);
}

#[test]
fn chat_answers_every_packet_of_a_member() {
    unharmed("plugins/chat", &[], &[&[b'a'; 31][..], b"n\n"].concat(), &chatter(), Amount::ALL);
}

#[test]
fn no_request_that_waits_is_lost() {
    let subject = Subject::new(&bundled("plugins/http"), &[]);
    let request = b"GET / HTTP/1.1\r\nHost:\r\n\r\n";
    let outcome =
        subject.play(&[&repeated(request)], wharf_tests::packets::Manner::Calm).expect("no fault");
    let answers =
        String::from_utf8(outcome.written).expect("text").matches("HTTP/1.1 200 OK").count();
    assert_eq!((answers, outcome.timers > 1), (65_536 / request.len(), true));
}
