//! Writing responses.

use crate::request::Problem;

/// The head of a 200 answer with a body of this length.
pub(crate) fn found(content_type: &str, length: usize, keep_alive: bool) -> Vec<u8> {
    head("200 OK", &["Content-Type: ", content_type, "\r\n"], length, keep_alive)
}

/// The answer to a problem. The body repeats the status in words.
pub(crate) fn error(problem: Problem, keep_alive: bool) -> Vec<u8> {
    let (status, fields) = match problem {
        Problem::Bad => ("400 Bad Request", ""),
        Problem::NotFound => ("404 Not Found", ""),
        Problem::Method => ("405 Method Not Allowed", "Allow: GET, HEAD\r\n"),
        Problem::Timeout => ("408 Request Timeout", ""),
        Problem::BodyTooLarge => ("413 Content Too Large", ""),
        Problem::TooMany => ("429 Too Many Requests", ""),
        Problem::HeadTooLarge => ("431 Request Header Fields Too Large", ""),
        Problem::Encoding => ("501 Not Implemented", ""),
        Problem::Version => ("505 HTTP Version Not Supported", ""),
    };
    let body = [status, "\n"].concat();
    let head = head(
        status,
        &["Content-Type: text/plain; charset=utf-8\r\n", fields],
        body.len(),
        keep_alive,
    );
    [head, body.into_bytes()].concat()
}

/// Builds a head without `format!`, which would cost more than the rest of the answer.
fn head(status: &str, fields: &[&str], length: usize, keep_alive: bool) -> Vec<u8> {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let length = length.to_string();
    let before = ["HTTP/1.1 ", status, "\r\n"];
    let after = ["Content-Length: ", &length, "\r\nConnection: ", connection, "\r\n\r\n"];
    [&before[..], fields, &after].concat().concat().into_bytes()
}

/// Removes the body, for an answer to HEAD.
pub(crate) fn drop_body(response: &mut Vec<u8>) {
    if let Some(end) = response.windows(4).position(|window| window == b"\r\n\r\n") {
        response.truncate(end + 4);
    }
}
