//! Reading files that somebody else may have put there: regular files only, of bounded size, and without waiting.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Reads a whole file of at most `max_bytes`. Opening does not wait, so that a pipe without a writer is an error and no
/// hang.
///
/// # Errors
/// What the system said; `InvalidInput` where it is no regular file; `FileTooLarge` where it is over the limit.
pub(crate) fn read(file: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    read_and_see(file, max_bytes).map(|(bytes, _)| bytes)
}

fn read_and_see(file: &Path, max_bytes: u64) -> io::Result<(Vec<u8>, Metadata)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = File::from(rustix::fs::open(file, flags, Mode::empty())?);
    let seen = opened.metadata()?;
    if !seen.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a regular file"));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that grew meanwhile.
    opened.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("expected at most {max_bytes} bytes")));
    }
    Ok((bytes, seen))
}

/// The same for text.
///
/// # Errors
/// Those of [`read`], and `InvalidData` where it is not UTF-8.
pub(crate) fn read_text(file: &Path, max_bytes: u64) -> io::Result<String> {
    text(read(file, max_bytes)?)
}

/// The same for text that nobody else may read, or change: it belongs to this user or to root, and has the mode 600 or 640.
///
/// # Errors
/// Those of [`read_text`], and `PermissionDenied` where others may read it.
pub(crate) fn read_secret(file: &Path, max_bytes: u64) -> io::Result<String> {
    let (bytes, seen) = read_and_see(file, max_bytes)?;
    let refuse = |what: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    if seen.uid() != 0 && seen.uid() != rustix::process::geteuid().as_raw() {
        return refuse("belongs to another user, who may read and change it".into());
    }
    if seen.mode() & 0o037 != 0 {
        return refuse(format!("others may read it (mode {:o}); expected 600 or 640", seen.mode() & 0o777));
    }
    text(bytes)
}

/// Makes a folder where it is missing, and looks whether nobody else may write to it.
///
/// # Errors
/// What the system said; `PermissionDenied` where it is a link, somebody else's or open to others.
pub(crate) fn own_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let seen = fs::symlink_metadata(folder)?;
    let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, what.to_owned()));
    if !seen.is_dir() {
        return refuse("it is a link or a file, and a folder is expected");
    }
    if seen.uid() != rustix::process::geteuid().as_raw() {
        return refuse("it belongs to another user");
    }
    if seen.mode() & 0o022 != 0 {
        return refuse("others may write to it; run `chmod go-w` on it");
    }
    Ok(())
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "expected UTF-8 text"))
}
