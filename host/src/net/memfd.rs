//! A memory file that outlives the process, with a head and a body for the next holder of its
//! descriptor.
//!
//! A program may have put any descriptor where snapshot files are kept. Therefore all content is
//! checked before it is used.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::sockopt::{socket_acceptconn, socket_cookie};

use super::fd_channel::{FRAME_BYTES, frame, lengths};

/// A snapshot file.
#[derive(Debug)]
pub struct SnapshotFile(File);

impl SnapshotFile {
    /// Writes a snapshot file.
    ///
    /// # Errors
    /// `InvalidInput`: the content is too large. Otherwise there is no descriptor or no memory for
    /// it.
    pub fn write(head: &[u8], body: &[&[u8]]) -> io::Result<Self> {
        let frame = frame(head.len(), body.iter().map(|part| part.len()).sum())?;
        let mut file = File::from(memfd_create("wharf-session", MemfdFlags::CLOEXEC)?);
        file.write_all(&frame)?;
        file.write_all(head)?;
        body.iter().try_for_each(|part| file.write_all(part))?;
        Ok(Self(file))
    }

    /// Opens a descriptor as a snapshot file. The content is not checked yet.
    ///
    /// # Errors
    /// The descriptor itself, if it is no file.
    pub fn open(descriptor: OwnedFd) -> Result<Self, OwnedFd> {
        let file = File::from(descriptor);
        // Reading from something other than a file may wait for ever.
        if file.metadata().is_ok_and(|seen| seen.is_file()) {
            Ok(Self(file))
        } else {
            Err(file.into())
        }
    }

    /// Reads the head.
    ///
    /// # Errors
    /// The file is no snapshot file, or a void one.
    pub fn head(&self) -> io::Result<Vec<u8>> {
        let (head, _) = self.lengths()?;
        self.read(FRAME_BYTES, head)
    }

    /// Reads the body.
    ///
    /// # Errors
    /// The file is no snapshot file, or a void one.
    pub fn body(&self) -> io::Result<Vec<u8>> {
        let (head, body) = self.lengths()?;
        self.read(FRAME_BYTES + head, body)
    }

    /// Makes the file void for all of its holders.
    ///
    /// # Errors
    /// The system's error.
    pub fn void(&self) -> io::Result<()> {
        self.0.set_len(0)
    }

    fn lengths(&self) -> io::Result<(usize, usize)> {
        let mut frame = [0; FRAME_BYTES];
        self.0.read_exact_at(&mut frame, 0)?;
        let (head, body) = lengths(frame)?;
        match self.0.metadata()?.len() == (FRAME_BYTES + head + body) as u64 {
            true => Ok((head, body)),
            false => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "it is not as long as it says"))
            }
        }
    }

    fn read(&self, from: usize, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.0.read_exact_at(&mut bytes, from as u64)?;
        Ok(bytes)
    }
}

impl AsFd for SnapshotFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns a number that no other socket of this system has, in any process. `None`: the descriptor
/// is no socket.
#[must_use]
pub fn socket_number(socket: impl AsFd) -> Option<u64> {
    socket_cookie(socket).ok()
}

/// Returns whether the descriptor is a socket that listens.
#[must_use]
pub fn is_listening(socket: impl AsFd) -> bool {
    socket_acceptconn(socket).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::fd_channel::HEAD_MAX_BYTES;

    #[test]
    fn note_keeps_its_text_until_void() {
        let file = SnapshotFile::write(b"head", &[b"bo", b"dy"]).expect("room");
        let other = file.as_fd().try_clone_to_owned().expect("a descriptor");
        let other = SnapshotFile::open(other).expect("a file");
        assert_eq!(
            (other.head().expect("a head"), other.body().expect("a body")),
            (b"head".to_vec(), b"body".to_vec())
        );
        file.void().expect("it is its own");
        assert!(other.head().is_err() && other.body().is_err());
    }

    #[test]
    fn invalid_note_is_not_read() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        assert!(SnapshotFile::open(reader.into()).is_err());
        for bytes in [
            &b""[..],
            &[0xff; 40],
            &[4, 0, 0, 0, 0xff, 0xff, 0, 0, b'h'],
            &[1, 0, 0, 0, 0, 0, 0, 0],
        ] {
            let mut file = File::from(memfd_create("other", MemfdFlags::CLOEXEC).expect("room"));
            file.write_all(bytes).expect("room");
            let file = SnapshotFile::open(file.into()).expect("a file");
            assert!(file.head().is_err() && file.body().is_err(), "{bytes:?}");
        }
        let too_large = vec![0; HEAD_MAX_BYTES + 1];
        assert_eq!(
            SnapshotFile::write(&too_large, &[]).expect_err("a limit").kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
