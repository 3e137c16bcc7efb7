//! Reading files that other users may have put there: regular files only, of bounded size, and
//! without waiting.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Access, Mode, OFlags};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod scratch;

/// Reads a whole file of at most `max_bytes`. Opening does not wait: a pipe without a writer is an
/// error and no hang.
///
/// # Errors
/// The system's error; `InvalidInput` if it is no regular file; `FileTooLarge` if it is over the
/// limit.
pub(crate) fn read(file: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    read_and_see(file, max_bytes).map(|(bytes, _)| bytes)
}

/// Reads the first bytes of a regular file, as many as there is room for.
///
/// # Errors
/// Those of [`read`].
pub(crate) fn read_first<'a>(file: &Path, room: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let (mut opened, _) = open(file)?;
    let mut length = 0;
    while length < room.len() {
        match opened.read(&mut room[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(&room[..length])
}

/// Replaces a file as a whole. A reader sees the file before or this one, also after any failure.
///
/// The target of a link is replaced, and not the link. A target that is no regular file, such as a
/// terminal, is written to.
///
/// # Errors
/// The system's error; a regular file is as it was.
pub(crate) fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = &file.canonicalize().unwrap_or_else(|_| file.to_owned());
    if fs::metadata(file).is_ok_and(|seen| !seen.is_file()) {
        return fs::write(file, bytes);
    }
    if file.file_name().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidFilename, "expected the name of a file"));
    }
    let draft = file.with_file_name(format!(".wharf-{}.draft", std::process::id()));
    fs::write(&draft, bytes).and_then(|()| fs::rename(&draft, file)).inspect_err(|_| {
        // The draft may not exist.
        let _ = fs::remove_file(&draft);
    })
}

fn open(file: &Path) -> io::Result<(File, Metadata)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = File::from(rustix::fs::open(file, flags, Mode::empty())?);
    let seen = opened.metadata()?;
    if !seen.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a regular file"));
    }
    Ok((opened, seen))
}

fn read_and_see(file: &Path, max_bytes: u64) -> io::Result<(Vec<u8>, Metadata)> {
    let (opened, seen) = open(file)?;
    let mut bytes = Vec::new();
    // One byte more than allowed shows a file that grew meanwhile.
    opened.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("expected at most {max_bytes} bytes"),
        ));
    }
    Ok((bytes, seen))
}

/// Reads a whole file as text.
///
/// # Errors
/// Those of [`read`], and `InvalidData` if it is not UTF-8.
pub(crate) fn read_text(file: &Path, max_bytes: u64) -> io::Result<String> {
    text(read(file, max_bytes)?)
}

/// Reads text that no other user may read or change: the file belongs to this user or to root, and
/// has mode 600 or 640.
///
/// # Errors
/// Those of [`read_text`], and `PermissionDenied` if others may read the file.
pub(crate) fn read_secret(file: &Path, max_bytes: u64) -> io::Result<String> {
    let (bytes, seen) = read_and_see(file, max_bytes)?;
    let refuse = |what: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    if seen.uid() != 0 && seen.uid() != rustix::process::geteuid().as_raw() {
        return refuse("belongs to another user, who may read and change it".into());
    }
    if seen.mode() & 0o037 != 0 {
        return refuse(format!(
            "others may read it (mode {:o}); expected 600 or 640",
            seen.mode() & 0o777
        ));
    }
    text(bytes)
}

/// Makes a folder if it is missing, and checks that no other user may write to it.
///
/// # Errors
/// The system's error; `PermissionDenied` if the folder is a link, another user's or open to
/// others.
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

/// Returns why this process could not make a folder or keep files in it. Changes nothing on disk.
pub(crate) fn keeps_nothing(folder: &Path) -> Option<String> {
    let known = folder
        .ancestors()
        .find(|folder| fs::symlink_metadata(folder).is_ok() && !folder.as_os_str().is_empty());
    let known = known.unwrap_or(Path::new("."));
    let name = known.display();
    if !fs::metadata(known).is_ok_and(|seen| seen.is_dir()) {
        return Some(format!("{name} is not a folder"));
    }
    let access = rustix::fs::access(known, Access::WRITE_OK | Access::EXEC_OK);
    access
        .err()
        .map(|error| format!("nothing can be written to {name}: {}", io::Error::from(error)))
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "expected UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole_and_devices_written() {
        let folder = std::env::temp_dir().join(format!("wharf-files-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let (file, link) = (folder.join("file"), folder.join("link"));
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        replace(&file, b"one").expect("it is written");
        replace(&link, b"two").expect("it is written");
        assert_eq!(fs::read(&file).expect("a file"), b"two");
        assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
        replace(Path::new("/dev/null"), b"x").expect("it takes everything");
        assert!(!fs::metadata("/dev/null").expect("it is there").is_file());
        assert!(replace(&folder, b"x").is_err() && replace(&folder.join("no/file"), b"x").is_err());
        // No draft is left.
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 2);
        fs::remove_dir_all(&folder).expect("it was there");
    }

    #[test]
    fn unwritable_folder_is_known_beforehand() {
        let folder = std::env::temp_dir();
        assert_eq!(keeps_nothing(&folder), None);
        assert_eq!(keeps_nothing(&folder.join("not/yet")), None);
        assert_eq!(keeps_nothing(Path::new("not/yet")), None);
        let why = keeps_nothing(Path::new("/dev/null/state")).expect("it cannot");
        assert_eq!(why, "/dev/null is not a folder");
    }
}
