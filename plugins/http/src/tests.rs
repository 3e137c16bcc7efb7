//! Tests with single clients.

use std::time::Duration;

use super::{BODY_MAX_BYTES, HEAD_MAX_BYTES, Http, REQUESTS_PER_EVENT};
use wharf_plugin::testing::Script;

const HOST: &str = "Host: a\r\n";

fn script() -> Script<Http> {
    Script::<Http>::new().setting("body", "hi\n").connect()
}

fn status(script: &Script<Http>) -> String {
    let text = String::from_utf8(script.written()).expect("text");
    text.split("\r\n").next().unwrap_or_default().to_owned()
}

fn refused(request: &str, expected: &str) {
    let script = script().read(request.as_bytes());
    assert_eq!(status(&script), format!("HTTP/1.1 {expected}"), "{request:?}");
}

#[test]
fn get_is_answered_and_the_connection_kept() {
    let script = script().read(format!("GET / HTTP/1.1\r\n{HOST}\r\n").as_bytes()).expect_open();
    let text = String::from_utf8(script.written()).expect("text");
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\n")
            && text.ends_with("Content-Length: 3\r\nConnection: keep-alive\r\n\r\nhi\n")
    );
}

#[test]
fn head_has_the_length_and_no_body() {
    let script = script().read(format!("HEAD / HTTP/1.1\r\n{HOST}\r\n").as_bytes());
    let text = String::from_utf8(script.written()).expect("text");
    assert!(text.contains("Content-Length: 3\r\n") && text.ends_with("\r\n\r\n"));
}

#[test]
fn request_in_single_bytes_is_one_request() {
    let script = script().read_bytewise(format!("GET / HTTP/1.1\r\n{HOST}\r\n").as_bytes());
    assert_eq!(status(&script), "HTTP/1.1 200 OK");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let requests = format!(
        "GET /a HTTP/1.1\r\n{HOST}\r\nPOST / HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nGET /HEAD \
         / HTTP/1.1\r\n{HOST}\r\n"
    );
    let script = script().read(requests.as_bytes());
    let text = String::from_utf8(script.written()).expect("text");
    let order: Vec<_> = text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(order, ["200", "405", "200"]);
}

#[test]
fn thousands_of_requests_at_once_are_answered() {
    let script = script()
        .read(format!("GET / HTTP/1.1\r\n{HOST}\r\n").repeat(2_000).as_bytes())
        .expect_open()
        .drive();
    let answers =
        String::from_utf8(script.written()).expect("text").matches("HTTP/1.1 200 OK").count();
    assert_eq!(answers, 2_000);
}

#[test]
fn waiting_requests_survive_a_swap_and_the_end() {
    let requests = format!("GET / HTTP/1.1\r\n{HOST}\r\n").repeat(REQUESTS_PER_EVENT * 2 + 1);
    let script = script()
        .read(requests.as_bytes())
        .hand_over("0.1.0")
        .end()
        .expect_open()
        .hand_over("0.1.0")
        .drive();
    let answers =
        String::from_utf8(script.written()).expect("text").matches("HTTP/1.1 200 OK").count();
    assert_eq!(answers, REQUESTS_PER_EVENT * 2 + 1);
    script.expect_closed();
}

#[test]
fn more_requests_than_are_kept_are_refused() {
    let requests = format!("GET / HTTP/1.1\r\n{HOST}\r\n").repeat(2_600);
    let script = (0..3).fold(script(), |script, _| script.read(&requests.as_bytes()[..64 << 10]));
    let text = String::from_utf8(script.written()).expect("text");
    assert!(text.ends_with("429 Too Many Requests\n") && text.contains("Connection: close"));
    script.expect_closed();
}

#[test]
fn closing_is_the_clients_wish() {
    script()
        .read(format!("GET / HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n").as_bytes())
        .expect_closed();
    script().read(b"GET / HTTP/1.0\r\n\r\n").expect_closed();
    let _ = script().read(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").expect_open();
}

#[test]
fn each_problem_has_its_status() {
    refused("hello\r\n\r\n", "400 Bad Request");
    refused("GET / HTTP/1.1\r\n\r\n", "400 Bad Request");
    refused(&format!("GET / HTTP/1.1\r\n{HOST}{HOST}\r\n"), "400 Bad Request");
    refused(
        &format!("GET / HTTP/1.1\r\n{HOST}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        "400 Bad Request",
    );
    refused(&format!("GET / HTTP/1.1\r\n{HOST}Bad Name: x\r\n\r\n"), "400 Bad Request");
    refused(&format!("GET / HTTP/1.1\r\n{HOST} folded\r\n\r\n"), "400 Bad Request");
    refused("\x16\x03\x01 a TLS hello", "400 Bad Request");
    refused(&format!("DELETE / HTTP/1.1\r\n{HOST}\r\n"), "405 Method Not Allowed");
    refused(&format!("GET / HTTP/2.0\r\n{HOST}\r\n"), "505 HTTP Version Not Supported");
    refused(
        &format!("GET / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n"),
        "501 Not Implemented",
    );
    refused(
        &format!("POST / HTTP/1.1\r\n{HOST}Content-Length: {}\r\n\r\n", BODY_MAX_BYTES + 1),
        "413 Content Too Large",
    );
}

#[test]
fn only_the_path_of_the_settings_exists() {
    let script = || Script::<Http>::new().setting("path", "/x").connect();
    assert_eq!(
        status(&script().read(format!("GET /x?q=1 HTTP/1.1\r\n{HOST}\r\n").as_bytes())),
        "HTTP/1.1 200 OK"
    );
    assert_eq!(
        status(&script().read(format!("GET /y HTTP/1.1\r\n{HOST}\r\n").as_bytes())),
        "HTTP/1.1 404 Not Found"
    );
}

#[test]
fn partial_request_gets_the_new_versions_settings() {
    let half = format!("GET /x HTTP/1.1\r\n{HOST}");
    let state = Script::<Http>::new().connect().read(half.as_bytes()).expect_silence().save();
    let script = Script::<Http>::new().setting("path", "/x").restore("0.1.0", &state);
    assert_eq!(
        script.expect_refused("0.1.0", b"short"),
        "expected eight bytes and a partial request"
    );
    assert_eq!(status(&script.read(b"\r\n")), "HTTP/1.1 200 OK");
}

#[test]
fn head_is_read_up_to_its_limit() {
    let request = |length: usize| {
        let start = format!("GET / HTTP/1.1\r\n{HOST}X: ");
        format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4))
    };
    assert_eq!(status(&script().read(request(HEAD_MAX_BYTES).as_bytes())), "HTTP/1.1 200 OK");
    refused(&request(HEAD_MAX_BYTES + 1), "431 Request Header Fields Too Large");
    // The same without an end, so that the plugin keeps no endless head.
    refused(
        &format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(HEAD_MAX_BYTES)),
        "431 Request Header Fields Too Large",
    );
}

#[test]
fn idle_client_is_closed_and_slow_one_answered() {
    let idle = script().timeout(Duration::from_secs(20)).expect_silence();
    idle.expect_closed();
    let slow = script().read(b"GET / HT").timeout(Duration::from_secs(20));
    assert_eq!(status(&slow), "HTTP/1.1 408 Request Timeout");
}

#[test]
fn large_body_is_written_in_fitting_pieces() {
    let body = "x".repeat(300 << 10);
    let script = Script::<Http>::new().setting("body", &body).connect();
    let script = script.read(format!("GET / HTTP/1.1\r\n{HOST}\r\n").as_bytes()).expect_open();
    assert!(script.written().ends_with(body.as_bytes()));
}
