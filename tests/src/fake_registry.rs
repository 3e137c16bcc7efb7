//! A registry whose answers a test chooses, right or wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request that the registry received.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The path with its query.
    pub path: String,
    /// The login or token of the request.
    pub authorization: Option<String>,
}

/// An answer of the registry.
pub enum Reply {
    /// A status, headers that end with a line break, and a body.
    Whole(u16, String, Vec<u8>),
    /// A length and a shorter body.
    Cut(usize, Vec<u8>),
    /// A body without end, until the client disconnects.
    Endless,
    /// No answer, until the client disconnects.
    Silence,
}

impl Reply {
    /// Status 200 with a body of this content type.
    #[must_use]
    pub fn ok(kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::Whole(200, format!("Content-Type: {kind}\r\n"), body.into())
    }

    /// A redirection to another URL.
    #[must_use]
    pub fn elsewhere(url: &str) -> Self {
        Self::Whole(307, format!("Location: {url}\r\n"), Vec::new())
    }

    /// Status 404.
    #[must_use]
    pub fn nothing() -> Self {
        Self::Whole(404, String::new(), Vec::new())
    }
}

/// The fake registry. It serves until the test process ends.
pub struct FakeRegistry {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl FakeRegistry {
    /// Starts a registry that answers each request by `answer`.
    #[must_use]
    pub fn new(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let fake_registry =
            Self { address: listener.local_addr().expect("its address"), asked: Arc::default() };
        let (asked, answer) = (Arc::clone(&fake_registry.asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
                std::thread::spawn(move || drop(serve(stream, &asked, &*answer)));
            }
        });
        fake_registry
    }

    /// The registry's host and port.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// All requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no thread panics").clone()
    }
}

fn serve(
    stream: TcpStream,
    asked: &Mutex<Vec<Asked>>,
    answer: &dyn Fn(&Asked) -> Reply,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut authorization = None;
    for line in lines.by_ref() {
        let line = line?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                authorization = Some(value.to_owned());
            }
            Some(_) => {}
            None => break,
        }
    }
    let one = Asked { path, authorization };
    asked.lock().expect("no thread panics").push(one.clone());
    let mut stream = stream;
    match answer(&one) {
        Reply::Whole(status, headers, body) => {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: \
                 close\r\n\r\n"
            )?;
            stream.write_all(&body)
        }
        Reply::Cut(length, body) => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            )?;
            stream.write_all(&body)
        }
        Reply::Endless => {
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            let chunk = [b' '; 0x8000];
            loop {
                stream.write_all(b"8000\r\n")?;
                stream.write_all(&chunk)?;
                stream.write_all(b"\r\n")?;
            }
        }
        // The read ends when the client disconnects.
        Reply::Silence => stream.read_to_end(&mut Vec::new()).map(drop),
    }
}
