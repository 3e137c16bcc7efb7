//! Clients that read at a chosen rate, and a plugin that writes faster than they read.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use wharf::plugin::Plugin;

use crate::clients::Client;
use crate::guests::{component, inline, versioned};
use crate::seeds::Seed;
use crate::servers::PATIENCE;

/// Makes the plugin write: this byte, then the number of pieces of [`PIECE_BYTES`], in one event.
const WRITE: u8 = 250;
/// Makes the plugin loop until its budget is spent.
const LOOP: u8 = 251;
/// Bytes that the plugin writes at a time.
pub const PIECE_BYTES: usize = 64 << 10;
/// The client's receive buffer. Small, so that the system soon acknowledges what the client reads.
const RECEIVE_BUFFER_BYTES: usize = 32 << 10;

/// A version of a plugin that counts bytes and answers with its label, as `versioned.wat` does, and
/// writes or loops on command. Its sessions can migrate.
#[must_use]
pub fn writer(label: char) -> Arc<Plugin> {
    inline(&format!("writer-{label}"), &text(label))
}

/// The same plugin as the bytes of a component.
#[must_use]
pub fn writer_component(label: char) -> Vec<u8> {
    component(&text(label))
}

fn text(label: char) -> String {
    let told = format!(
        "(if (i32.eq (i32.load8_u (local.get $data)) (i32.const {LOOP})) (then (call $spin)))
  (if (i32.eq (i32.load8_u (local.get $data)) (i32.const {WRITE})) (then
    (local.set $i (i32.load8_u offset=1 (local.get $data)))
    (block $gone (loop $piece
      (br_if $gone (i32.eqz (local.get $i)))
      (local.set $i (i32.sub (local.get $i) (i32.const 1)))
      (br_if $piece (i32.eqz (call $try-write (i32.const 0) (i32.const {PIECE_BYTES}))))))
    (return (i32.const 0))))
  (local.set $at (i32.const 2048))\n  (loop"
    );
    versioned(label, "", "").replace("(local.set $at (i32.const 2048))\n  (loop", &told)
}

/// A plugin that answers each message after about 300 ms of work.
pub const THINKER: &str = "
(func $on-read (param $data i32) (param $length i32) (result i32)
  (local $i i32)
  (loop $more
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $i) (i32.const 250000000))))
  (drop (call $try-write (local.get $data) (local.get $length)))
  (i32.const 0))";

/// How a client reads.
#[derive(Debug, Clone, Copy)]
pub enum Pattern {
    /// Not at all.
    Never,
    /// Some bytes, then a pause, repeatedly.
    Paced {
        /// Bytes at a time.
        bytes: usize,
        /// The pause.
        rest: Duration,
    },
}

impl Pattern {
    /// A pattern that reads less than this on average over each second, or not at all.
    pub fn below(bytes_per_second: usize, seed: &mut Seed) -> Self {
        if seed.below(4) == 0 {
            return Self::Never;
        }
        let rest = seed.millis(30, 900);
        let most = (bytes_per_second as u128 * rest.as_millis() / 1_000) as u64;
        Self::Paced { bytes: seed.between(1, (most / 2).max(2)) as usize, rest }
    }

    /// A pattern that reads more than this on average, in small pieces or in bursts.
    pub fn above(bytes_per_second: usize, seed: &mut Seed) -> Self {
        let rest = seed.millis(5, 150);
        let least = (bytes_per_second as u128 * rest.as_millis() / 1_000) as u64;
        Self::Paced { bytes: (least * seed.between(2, 4)) as usize, rest }
    }
}

/// A client whose system buffers little beyond what the client reads.
pub struct Reader(pub Client);

impl Reader {
    /// Connects with a small receive buffer.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).expect("a buffer");
        socket.connect(&address.into()).expect("the server accepts");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        stream.set_nodelay(true).expect("no delay");
        Self(Client(stream))
    }

    /// Makes the plugin write this many pieces in one event.
    pub fn ask(&mut self, pieces: u8) -> &mut Self {
        self.0.send([WRITE, pieces]);
        self
    }

    /// Makes the plugin loop.
    pub fn keep_busy(&mut self) -> &mut Self {
        self.0.send([LOOP]);
        self
    }

    /// Reads `bytes` bytes by the pattern, or to the end of the connection. Returns how many came.
    pub fn read(&mut self, pattern: Pattern, bytes: usize) -> usize {
        let Pattern::Paced { bytes: at_a_time, rest } = pattern else { return 0 };
        let (mut seen, mut buffer) = (0, vec![0; PIECE_BYTES]);
        while seen < bytes {
            let burst = (seen + at_a_time).min(bytes);
            while seen < burst {
                let room = buffer.len().min(burst - seen);
                match self.0.0.read(&mut buffer[..room]) {
                    Ok(count) if count > 0 => seen += count,
                    _ => return seen,
                }
            }
            std::thread::sleep(rest);
        }
        seen
    }

    /// Reads by the pattern until the server ends the connection, or until the time is over.
    /// Returns whether the connection ended.
    pub fn read_until_gone(&mut self, pattern: Pattern, within: Duration) -> bool {
        let start = Instant::now();
        while start.elapsed() < within {
            let (bytes, rest) = match pattern {
                Pattern::Never => (0, Duration::from_millis(50)),
                Pattern::Paced { bytes, rest } => (bytes, rest),
            };
            if bytes > 0 && self.read(Pattern::Paced { bytes, rest }, bytes) < bytes {
                return true;
            }
            if bytes == 0 {
                std::thread::sleep(rest);
            }
            if self.0.0.take_error().ok().flatten().is_some() {
                return true;
            }
        }
        false
    }
}
