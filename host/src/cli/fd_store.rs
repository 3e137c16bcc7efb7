//! systemd's descriptor store. Listening sockets are in the store while the process serves, and
//! sessions when it ends, so that the next process of the unit gets them. The store is used if the
//! unit sets `FileDescriptorStoreMax=`.
//!
//! This module sends its messages itself, because the library waits for ever if systemd does not
//! read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice, pipe};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::locks::lock;
use crate::upgrade::{FdStore, FdStoreError};

/// The name of all descriptors of sessions in the store. Short, because one variable of the
/// environment holds the names of all descriptors.
pub(super) const SESSIONS: &str = ".s";
/// Prefix of the name of a listening socket, before the server's name.
const LISTENS: &str = ".l-";
/// Most bytes of all names together: the kernel starts no process with a variable of more than
/// 128 KiB.
const NAMES_MAX_BYTES: usize = 120_000;
/// Time that the sending of a message may take.
const SEND_MAX: Duration = Duration::from_secs(2);
/// Time that systemd may take to handle all earlier messages.
const DONE_MAX: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// The store of this process's unit.
pub(super) struct SystemdStore {
    socket: PathBuf,
    /// Most descriptors in the store.
    max: usize,
    wanted: Mutex<Wanted>,
    /// The content of the store. Locked while messages are sent, so that they arrive in order.
    kept: Mutex<StoreContent>,
}

struct Wanted {
    /// Whether messages are held back, because systemd does not yet listen to this process.
    held: bool,
    sockets: BTreeMap<String, OwnedFd>,
}

/// What the store has of this program.
struct StoreContent {
    /// Servers whose listening sockets are stored.
    servers: BTreeSet<String>,
    session_descriptors: usize,
}

impl SystemdStore {
    /// The store of this process's unit, if it has one. `held`: systemd listens to the old process
    /// until [`SystemdStore::begin`].
    pub(super) fn of_this_unit(held: bool) -> Option<Self> {
        let socket = std::env::var_os("NOTIFY_SOCKET")?.into();
        let max = std::env::var("FDSTORE").ok()?.parse().ok().filter(|max| *max > 0)?;
        Some(Self::at(socket, max, held))
    }

    fn at(socket: PathBuf, max: usize, held: bool) -> Self {
        let wanted = Mutex::new(Wanted { held, sockets: BTreeMap::new() });
        Self {
            socket,
            max,
            wanted,
            kept: Mutex::new(StoreContent { servers: BTreeSet::new(), session_descriptors: 0 }),
        }
    }

    /// Records that the sockets of these servers are in the store since an earlier process.
    pub(super) fn has(&self, servers: impl IntoIterator<Item = String>) {
        self.kept().servers.extend(servers);
    }

    /// Stores the wanted sockets. Called once systemd listens to this process.
    pub(super) fn begin(&self) {
        let servers: Vec<_> = {
            let mut wanted = self.wanted();
            wanted.held = false;
            wanted.sockets.keys().cloned().collect()
        };
        self.clear_out();
        servers.iter().for_each(|server| self.follow(server));
    }

    /// Removes the sockets that are in the store since an earlier process. Wanted sockets must be
    /// stored again afterwards: systemd does not take a socket that it has under another name.
    pub(super) fn clear_out(&self) {
        let before = std::mem::take(&mut self.kept().servers);
        let names: Vec<_> = before.iter().map(|server| listens(server)).collect();
        if !names.is_empty() {
            self.remove(names.iter().map(String::as_str));
        }
    }

    /// Removes all descriptors of these names, and waits until systemd has done so.
    pub(super) fn remove<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let _in_order = self.kept();
        for name in names {
            // A name with a line break would start another message.
            if !name.chars().any(char::is_control) {
                self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[]);
            }
        }
        self.done();
    }

    /// Waits until systemd has handled all messages, for [`DONE_MAX`] at most.
    pub(super) fn done(&self) {
        let waits = || -> io::Result<bool> {
            let (reader, writer) = pipe()?;
            // systemd closes this descriptor once it has handled all earlier messages.
            self.send("BARRIER=1\n", &[writer.as_fd()])?;
            drop(writer);
            Ok(retry_on_intr(|| poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&DONE_MAX)))?
                > 0)
        };
        match waits() {
            Ok(true) => {}
            Ok(false) => tracing::warn!(
                "systemd does not say that it has done what it was told about its store"
            ),
            Err(error) => tracing::warn!(
                %error,
                "the message to systemd about its descriptor store was not sent"
            ),
        }
    }

    fn tell(&self, words: &str, descriptors: &[BorrowedFd<'_>]) -> bool {
        let sent = self.send(words, descriptors);
        if let Err(error) = &sent {
            tracing::warn!(
                %error,
                "the message to systemd about its descriptor store was not sent"
            );
        }
        sent.is_ok()
    }

    fn send(&self, words: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_MAX))?;
        socket.connect(&self.socket)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("there is no room for a descriptor"));
        }
        sendmsg(&socket, &[IoSlice::new(words.as_bytes())], &mut beside, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        lock(&self.wanted)
    }

    fn kept(&self) -> MutexGuard<'_, StoreContent> {
        lock(&self.kept)
    }
}

impl StoreContent {
    /// Whether the store has room for `count` more descriptors of this name.
    fn has_room(&self, count: usize, name: &str, max: usize) -> bool {
        let sockets: usize = self.servers.iter().map(|server| listens(server).len() + 1).sum();
        let names =
            sockets + self.session_descriptors * (SESSIONS.len() + 1) + count * (name.len() + 1);
        names <= NAMES_MAX_BYTES && self.servers.len() + self.session_descriptors + count <= max
    }
}

impl FdStore for SystemdStore {
    fn want(&self, server: &str, socket: Option<OwnedFd>) {
        let mut wanted = self.wanted();
        match socket {
            Some(socket) => drop(wanted.sockets.insert(server.to_owned(), socket)),
            None => drop(wanted.sockets.remove(server)),
        }
    }

    fn follow(&self, server: &str) {
        let (mut kept, name) = (self.kept(), listens(server));
        let socket = {
            let wanted = self.wanted();
            if wanted.held {
                return;
            }
            wanted.sockets.get(server).map(|socket| socket.try_clone())
        };
        let had = kept.servers.remove(server);
        if had {
            self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[]);
        }
        let Some(socket) = socket else {
            if had {
                self.done();
            }
            return;
        };
        if !kept.has_room(1, &name, self.max) {
            let max = self.max;
            tracing::warn!(
                server,
                max,
                "systemd's store is full (`FileDescriptorStoreMax=`); the server's socket is not \
                 stored"
            );
            return;
        }
        match socket {
            Ok(socket) => {
                if self.tell(&format!("FDSTORE=1\nFDNAME={name}\n"), &[socket.as_fd()]) {
                    kept.servers.insert(server.to_owned());
                }
            }
            Err(error) => tracing::warn!(server, %error, "the server's socket is not stored"),
        }
    }

    fn keep_session(&self, descriptors: [BorrowedFd<'_>; 2]) -> Result<(), FdStoreError> {
        let mut kept = self.kept();
        if self.wanted().held {
            // systemd does not listen to this process yet.
            return Err(FdStoreError::Gone);
        }
        if !kept.has_room(2, SESSIONS, self.max) {
            return Err(FdStoreError::Full);
        }
        // `FDPOLL=0` keeps the socket of a client that disconnects meanwhile, so that the next
        // process finds it and the plugin is told.
        let words = format!("FDSTORE=1\nFDNAME={SESSIONS}\nFDPOLL=0\n");
        if !self.tell(&words, &descriptors) {
            return Err(FdStoreError::Gone);
        }
        kept.session_descriptors += 2;
        Ok(())
    }
}

/// The name of a server's socket in the store. The store takes only ASCII names without colons.
pub(super) fn listens(server: &str) -> String {
    LISTENS.to_owned() + &super::request::encoded(server)
}

/// The server whose socket has this name in the store.
pub(super) fn server_of(name: &str) -> Option<String> {
    let mut bytes = name.strip_prefix(LISTENS)?.bytes();
    let mut server = Vec::new();
    while let Some(byte) = bytes.next() {
        server.push(match byte {
            b'%' => {
                let (high, low) = (
                    char::from(bytes.next()?).to_digit(16)?,
                    char::from(bytes.next()?).to_digit(16)?,
                );
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(server).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_servers_survive_the_store() {
        for server in ["echo", "a:b", "ü %", "", "%41"] {
            let name = listens(server);
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{name}");
            assert_eq!(server_of(&name).as_deref(), Some(server));
        }
        for name in [".s", "echo", ".l-%", ".l-%4", ".l-%zz", ".l-%ff", ".l-%é"] {
            assert_eq!(server_of(name), None, "{name}");
        }
    }

    #[test]
    fn full_store_gets_no_further_descriptors() {
        let folder = std::env::temp_dir().join(format!("wharf-store-{}", std::process::id()));
        let hears = UnixDatagram::bind(&folder).expect("a socket");
        hears.set_nonblocking(true).expect("a mode");
        let (reader, writer) = pipe().expect("a pipe");
        let keep = |store: &SystemdStore| store.keep_session([reader.as_fd(), writer.as_fd()]);
        let heard = || hears.recv(&mut [0; 64]).is_ok();
        let store = SystemdStore::at(folder.clone(), 3, false);
        assert_eq!((keep(&store), heard()), (Ok(()), true));
        assert_eq!((keep(&store), heard()), (Err(FdStoreError::Full), false));
        store.want("echo", Some(reader.as_fd().try_clone_to_owned().expect("a descriptor")));
        store.follow("echo");
        assert!(heard());
        store.want("more", Some(reader.as_fd().try_clone_to_owned().expect("a descriptor")));
        store.follow("more");
        assert!(!heard());
        // Names have a limit of their own.
        let kept =
            StoreContent { servers: BTreeSet::new(), session_descriptors: NAMES_MAX_BYTES / 3 - 2 };
        assert!(kept.has_room(2, SESSIONS, usize::MAX) && !kept.has_room(3, SESSIONS, usize::MAX));
        std::fs::remove_file(&folder).expect("it was there");
        assert_eq!(keep(&SystemdStore::at(folder, 3, false)), Err(FdStoreError::Gone));
    }
}
