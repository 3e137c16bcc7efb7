//! Files and folders that exist while one check looks at them.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};

/// Where the system has files in memory, so that a check waits for no disk.
const IN_MEMORY: &str = "/dev/shm";

/// Calls `look` with the path of a file with these bytes, in memory, which only this user may read.
pub(crate) fn with_file<T>(bytes: &[u8], look: impl FnOnce(&Path) -> T) -> T {
    let mut file = File::from(memfd_create("wharf-scratch", MemfdFlags::CLOEXEC).expect("memory"));
    fchmod(&file, Mode::RUSR | Mode::WUSR).expect("an own file");
    file.write_all(bytes).expect("memory");
    look(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}

/// Calls `look` with the path of an empty folder, and removes the folder.
pub(crate) fn with_folder<T>(look: impl FnOnce(&Path) -> T) -> T {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    struct Folder(PathBuf);
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("wharf-scratch-{}-{number}", std::process::id());
    let parent = match Path::new(IN_MEMORY).is_dir() {
        true => PathBuf::from(IN_MEMORY),
        false => std::env::temp_dir(),
    };
    let folder = Folder(parent.join(name));
    super::own_folder(&folder.0).expect("a folder");
    look(&folder.0)
}
