//! Errors by which the system refuses a resource to a connection. They are no peer's doing.

use std::io;

use rustix::io::Errno;

/// Returns whether the system refused a descriptor, memory, or a place in a reactor.
pub(crate) fn is_refused_by_system(error: &io::Error) -> bool {
    match Errno::from_io_error(error) {
        // NOSPC: `fs.epoll.max_user_watches` is reached.
        Some(errno) => matches!(
            errno,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::NOSPC
        ),
        None => error.kind() == io::ErrorKind::OutOfMemory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_refusals_are_told_from_broken_connections() {
        let refusals = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC];
        for errno in refusals {
            assert!(is_refused_by_system(&errno.into()), "{errno}");
        }
        let broken =
            [Errno::CONNRESET, Errno::PIPE, Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::BADF];
        for errno in broken {
            assert!(!is_refused_by_system(&errno.into()), "{errno}");
        }
        assert!(is_refused_by_system(&io::ErrorKind::OutOfMemory.into()));
        assert!(!is_refused_by_system(&io::ErrorKind::UnexpectedEof.into()));
    }
}
