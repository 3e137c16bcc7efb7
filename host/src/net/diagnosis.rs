//! A question to the kernel about a listening socket: whether an old shutdown is still in force.
//!
//! Linux keeps a shutdown of a socket that does not listen. `listen` does not clear the shutdown,
//! and each accepted socket inherits it: its client sees the end at once. No call on the socket
//! shows the shutdown.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `INET_DIAG_SHUTDOWN`: one byte, a bit for each direction.
const SHUTDOWN: u16 = 8;
/// `1 << TCP_LISTEN`.
const LISTENS: u32 = 1 << 10;
/// Size of a message's head.
const HEAD_BYTES: usize = 16;
/// Size of the fixed part of an answer, `inet_diag_msg`.
const FIXED_BYTES: usize = 72;
/// Size of an attribute's head.
const ATTRIBUTE_BYTES: usize = 4;
/// A buffer larger than the kernel's answer about one socket.
const ANSWER_MAX_BYTES: usize = 4_096;

/// Returns whether a socket that listens at this address was shut down before it listened. `cookie`
/// selects the socket among others. Four system calls; does not block.
///
/// # Errors
/// The kernel does not say: it lacks this service, or a socket bound to an interface hides this
/// one.
pub(super) fn is_shut(address: SocketAddr, cookie: u64) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let service = Some(netlink::SOCK_DIAG);
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, service)?;
    send(&kernel, &question(address, cookie), SendFlags::empty())?;
    let mut answer = [0; ANSWER_MAX_BYTES];
    let (_, length) = recv(&kernel, &mut answer[..], RecvFlags::empty())?;
    let answer = answer.get(..length).unwrap_or_default();
    shutdown_of(answer).map(|directions| directions != 0).ok_or(Errno::PROTO.into())
}

fn question(address: SocketAddr, cookie: u64) -> Vec<u8> {
    let (family, scope) = match address {
        SocketAddr::V4(_) => (AddressFamily::INET, 0),
        SocketAddr::V6(address) => (AddressFamily::INET6, address.scope_id()),
    };
    let mut body = Vec::new();
    body.extend([u8::try_from(family.as_raw()).unwrap_or_default(), TCP, 1 << (SHUTDOWN - 1), 0]);
    body.extend(LISTENS.to_ne_bytes());
    body.extend(address.port().to_be_bytes());
    body.extend([0; 2]);
    let mut ip = [0; 16];
    match address.ip() {
        IpAddr::V4(v4) => ip[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => ip = v6.octets(),
    }
    body.extend(ip);
    body.extend([0; 16]);
    body.extend(scope.to_ne_bytes());
    body.extend(cookie.to_ne_bytes());
    let length = u32::try_from(HEAD_BYTES + body.len()).unwrap_or_default();
    let mut question = Vec::new();
    question.extend(length.to_ne_bytes());
    question.extend(BY_FAMILY.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    question.extend([0; 8]);
    question.extend(body);
    question
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Returns the directions that are shut down, or `None` if the answer does not say.
fn shutdown_of(answer: &[u8]) -> Option<u8> {
    if u16_at(answer, 4)? != BY_FAMILY {
        return None;
    }
    let mut rest = answer.get(HEAD_BYTES + FIXED_BYTES..)?;
    loop {
        let length = usize::from(u16_at(rest, 0)?);
        if u16_at(rest, 2)? == SHUTDOWN {
            return rest.get(ATTRIBUTE_BYTES).copied();
        }
        // Each attribute begins at a multiple of four.
        rest = rest.get(length.max(ATTRIBUTE_BYTES).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener};

    use rustix::net::{bind, listen};
    use socket2::SockRef;

    use super::*;

    #[test]
    fn shutdown_that_outlives_is_seen() {
        for host in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(host) else { continue };
            let (socket, at) = (SockRef::from(&listener), listener.local_addr().expect("bound"));
            let cookie = socket.cookie().expect("a number");
            assert!(!is_shut(at, cookie).expect("it says"), "{host}");
            assert!(is_shut(at, cookie + 1).is_err(), "another socket");
            for how in [Shutdown::Read, Shutdown::Write, Shutdown::Both] {
                // From the second time on the socket does not listen here.
                let _ = socket.shutdown(Shutdown::Both);
                assert!(socket.shutdown(how).is_err(), "it does not listen");
                // A port that was bound by its number stays: EINVAL.
                let _ = bind(&listener, &at);
                listen(&listener, 1).expect("free");
                assert!(is_shut(at, cookie).expect("it says"), "{host}, {how:?}");
                rustix::net::connect_unspec(&listener).expect("reset");
            }
        }
    }

    #[test]
    fn cut_answers_say_nothing() {
        let mut answer = vec![0; HEAD_BYTES + FIXED_BYTES];
        answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        answer.extend(4_u16.to_ne_bytes());
        answer.extend(1_u16.to_ne_bytes());
        answer.extend(5_u16.to_ne_bytes());
        answer.extend(SHUTDOWN.to_ne_bytes());
        answer.push(2);
        assert_eq!(shutdown_of(&answer), Some(2));
        for length in 0..answer.len() {
            assert_eq!(shutdown_of(&answer[..length]), None, "{length}");
        }
    }
}
