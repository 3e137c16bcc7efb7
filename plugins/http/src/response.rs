//! Writing responses.

use crate::request::Problem;

/// 200 with the body.
pub(crate) fn found(content_type: &str, body: &str, keep_alive: bool) -> Vec<u8> {
    response("200 OK", &format!("Content-Type: {content_type}\r\n"), body, keep_alive)
}

/// What a problem is answered with. Its body says it in words.
pub(crate) fn error(problem: Problem, keep_alive: bool) -> Vec<u8> {
    let (status, fields) = match problem {
        Problem::Bad => ("400 Bad Request", ""),
        Problem::NotFound => ("404 Not Found", ""),
        Problem::Method => ("405 Method Not Allowed", "Allow: GET, HEAD\r\n"),
        Problem::Timeout => ("408 Request Timeout", ""),
        Problem::BodyTooLarge => ("413 Content Too Large", ""),
        Problem::HeadTooLarge => ("431 Request Header Fields Too Large", ""),
        Problem::Encoding => ("501 Not Implemented", ""),
        Problem::Version => ("505 HTTP Version Not Supported", ""),
    };
    let fields = format!("Content-Type: text/plain; charset=utf-8\r\n{fields}");
    response(status, &fields, &format!("{status}\n"), keep_alive)
}

fn response(status: &str, fields: &str, body: &str, keep_alive: bool) -> Vec<u8> {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}")
        .into_bytes()
}

/// Leaves the head, as the answer to HEAD.
pub(crate) fn drop_body(response: &mut Vec<u8>) {
    if let Some(end) = response.windows(4).position(|window| window == b"\r\n\r\n") {
        response.truncate(end + 4);
    }
}
