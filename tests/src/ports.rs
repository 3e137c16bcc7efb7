//! Ports for servers of tests. A process gets each port once. Processes begin at different ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, Socket, Type};

/// Ports that Linux gives to no outgoing connection, by its default range.
const PORTS: Range<u16> = 10_000..32_768;
/// Ports between the first candidates of two processes, if their ids follow each other.
const STRIDE: u32 = 97;

/// Candidates of this process so far.
static ASKED: AtomicU32 = AtomicU32::new(0);

/// Returns a port that is free now and that this process did not get before.
#[must_use]
pub fn free_port() -> u16 {
    let start = std::process::id().wrapping_mul(STRIDE);
    (0..PORTS.len())
        .map(|_| {
            let next = start.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed));
            PORTS.start + (next % PORTS.len() as u32) as u16
        })
        .find(|port| is_free(*port))
        .expect("a free port")
}

/// Whether a server without the option `reuse-address` can listen at the port on any address.
fn is_free(port: u16) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_given_once() {
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..500).map(|_| free_port()).collect::<Vec<_>>()))
            .collect();
        let ports: Vec<_> =
            threads.into_iter().flat_map(|thread| thread.join().expect("ports")).collect();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 2_000);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn taken_port_is_not_free() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        assert!(!is_free(taken.local_addr().expect("an address").port()));
    }
}
