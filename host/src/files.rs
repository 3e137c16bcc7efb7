//! Reading files that somebody else may have put there: regular files only, of bounded size, and without waiting.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Reads a whole file of at most `max_bytes`. Opening does not wait, so that a pipe without a writer is an error and no
/// hang.
///
/// # Errors
/// What the system said; `InvalidInput` where it is no regular file; `FileTooLarge` where it is over the limit.
pub(crate) fn read(file: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = File::from(rustix::fs::open(file, flags, Mode::empty())?);
    if !opened.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a regular file"));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that grew meanwhile.
    opened.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("expected at most {max_bytes} bytes")));
    }
    Ok(bytes)
}

/// The same for text.
///
/// # Errors
/// Those of [`read`], and `InvalidData` where it is not UTF-8.
pub(crate) fn read_text(file: &Path, max_bytes: u64) -> io::Result<String> {
    String::from_utf8(read(file, max_bytes)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "expected UTF-8 text"))
}
