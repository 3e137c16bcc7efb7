//! A service manager with the parts of systemd that Wharf uses: it receives messages, keeps
//! descriptors, and starts the next process with them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::fs::fstat;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::guests::wharf_binary;
use crate::process::Wharf;
use crate::servers::PATIENCE;

/// Most descriptors in one message.
const AT_ONCE: usize = 100;
/// A Python program that takes descriptors from its standard input, puts them where a service finds
/// them, and becomes the service.
const LAUNCH: &str = "import array, os, resource, socket, sys\n\
    count, names, program = int(sys.argv[1]), sys.argv[2], sys.argv[3:]\n\
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\n\
    end, got = socket.socket(fileno=os.dup(0)), []\n\
    while len(got) < count:\n\
    \x20   got += socket.recv_fds(end, 1, 200)[1]\n\
    import fcntl\n\
    high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10000) for one in got]\n\
    for one in got: os.close(one)\n\
    for at, one in enumerate(high):\n\
    \x20   os.dup2(one, 3 + at, inheritable=True)\n\
    if count:\n\
    \x20   os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), \
    LISTEN_FDNAMES=names)\n\
    os.dup2(os.open('/dev/null', os.O_RDONLY), 0)\n\
    os.execv(program[0], program)\n";

type Store = Arc<Mutex<Vec<(String, OwnedFd)>>>;

/// The manager of one service.
pub struct FakeSystemd {
    folder: PathBuf,
    store: Store,
    max: usize,
    words: Receiver<String>,
}

impl FakeSystemd {
    /// Starts a manager that keeps at most `max` descriptors. Its socket is in this folder.
    #[must_use]
    pub fn with_store(folder: &Path, max: usize) -> Self {
        let hears = UnixDatagram::bind(folder.join("notify")).expect("a socket");
        let (store, (says, words)) = (Store::default(), channel());
        let keeps = Arc::clone(&store);
        // The thread ends with the process.
        std::thread::spawn(move || {
            while let Some((text, descriptors)) = receive(&hears) {
                keep(&keeps, max, &text, descriptors, &says);
            }
        });
        Self { folder: folder.to_owned(), store, max, words }
    }

    /// Starts the service with all descriptors of the store, and waits until it is ready.
    #[must_use]
    pub fn start(&self) -> Wharf {
        let kept: Vec<_> = {
            let store = self.kept();
            let copy = |(name, one): &(String, OwnedFd)| {
                (name.clone(), one.try_clone().expect("a descriptor"))
            };
            store.iter().map(copy).collect()
        };
        let names: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = Command::new("python3");
        command
            .arg("-c")
            .arg(LAUNCH)
            .arg(kept.len().to_string())
            .arg(names.join(":"))
            .arg(wharf_binary());
        command
            .arg("serve")
            .env("NOTIFY_SOCKET", self.folder.join("notify"))
            .env("FDSTORE", self.max.to_string());
        let (near, far) = UnixStream::pair().expect("a pair");
        let wharf = Wharf::spawn_with(command, &self.folder, OwnedFd::from(far).into());
        for some in kept.chunks(AT_ONCE) {
            let descriptors: Vec<_> = some.iter().map(|(_, one)| one.as_fd()).collect();
            give(&near, &descriptors);
        }
        self.hears("READY=1");
        wharf
    }

    /// Waits for a message that contains these words.
    pub fn hears(&self, words: &str) {
        let start = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let text =
                self.words.recv_timeout(left).unwrap_or_else(|_| panic!("it never said {words}"));
            if text.contains(words) {
                return;
            }
        }
    }

    /// The names of all descriptors in the store.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.kept().iter().map(|(name, _)| name.clone()).collect()
    }

    /// The number of descriptors of this name in the store.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.names().iter().filter(|one| *one == name).count()
    }

    /// Puts a descriptor into the store.
    pub fn put(&self, name: &str, descriptor: impl Into<OwnedFd>) {
        self.kept().push((name.to_owned(), descriptor.into()));
    }

    /// The content of the store: names and descriptors.
    pub fn kept(&self) -> MutexGuard<'_, Vec<(String, OwnedFd)>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(store: &Store, max: usize, text: &str, descriptors: Vec<OwnedFd>, says: &Sender<String>) {
    let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
    let is = |word: &str| text.lines().any(|line| line == word);
    let mut kept = store.lock().unwrap_or_else(PoisonError::into_inner);
    if is("FDSTOREREMOVE=1") {
        kept.retain(|(other, _)| other != name);
    } else if is("FDSTORE=1") {
        for descriptor in descriptors {
            let file = |one: &OwnedFd| {
                fstat(one).map(|seen| (seen.st_dev, seen.st_ino)).expect("it is open")
            };
            let known = kept.iter().any(|(_, other)| file(other) == file(&descriptor));
            // A descriptor that does not fit is closed.
            if !known && kept.len() < max {
                kept.push((name.to_owned(), descriptor));
            }
        }
    }
    drop(kept);
    // The receiver may be gone already.
    let _ = says.send(text.to_owned());
}

fn receive(socket: &UnixDatagram) -> Option<(String, Vec<OwnedFd>)> {
    let (mut text, mut space) =
        ([0; 4096], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))]);
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let came =
        recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut beside, RecvFlags::CMSG_CLOEXEC)
            .ok()?;
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    Some((String::from_utf8_lossy(&text[..came.bytes]).into_owned(), descriptors))
}

fn give(socket: &UnixStream, descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    assert!(beside.push(SendAncillaryMessage::ScmRights(descriptors)), "there is room");
    sendmsg(socket, &[IoSlice::new(&[0])], &mut beside, SendFlags::empty()).expect("it takes them");
}
