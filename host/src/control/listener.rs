//! Where the control API is reached: a Unix socket that only its owner can use, and a loopback
//! address.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{bind, connect_unspec, listen};
use rustix::process::getuid;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, UnixStream};

/// Connections that the system may hold for a loopback address that is opened again.
const BACKLOG: i32 = 128;

/// Why there is no door.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenerError {
    /// Another process answers there.
    #[error("{}: another process serves its control API there; stop it, or name another \
        `control.socket`", .0.display())]
    Busy(PathBuf),
    /// Something that is no socket is in the way.
    #[error("{}: is in the way and no socket; remove it, or name another \
        `control.socket`", .0.display())]
    InTheWay(PathBuf),
    /// It belongs to somebody else.
    #[error("{}: belongs to another user; name another `control.socket`", .0.display())]
    NotOurs(PathBuf),
    /// Others may change what is in its folder.
    #[error("{}: others may write to this folder; a control socket needs one that only its owner \
        can write to", .0.display())]
    OpenFolder(PathBuf),
    /// The system said no.
    #[error("{place}: cannot open the control API: {source}")]
    System {
        /// The socket or the address.
        place: String,
        /// What it said.
        source: io::Error,
    },
    /// Not a loopback address.
    #[error(
        "`control.listen`: {0} is no loopback address; the API is for this machine, so put a proxy \
         of your own before it"
    )]
    NotLoopback(SocketAddr),
    /// An address without a token.
    #[error(
        "`control.token_file`: missing; whoever reaches a port may use it, so `control.listen` \
         needs a token"
    )]
    NoToken,
    /// The token cannot be used.
    #[error("{}: {problem}", .file.display())]
    Token {
        /// Where it is.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Where the socket is if nobody says: the user's run-time folder, or the system's for root.
#[must_use]
pub fn default_socket() -> PathBuf {
    let run = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute());
    let folder = match run {
        Some(folder) => folder.join("wharf"),
        None if getuid().is_root() => PathBuf::from("/run/wharf"),
        None => std::env::temp_dir().join(format!("wharf-{}", getuid().as_raw())),
    };
    folder.join("control.sock")
}

/// A Unix socket at a path. Removes it when dropped, if it is still its own.
pub(super) struct ControlSocket {
    pub(super) listener: AsyncFd<StdUnixListener>,
    path: PathBuf,
    inode: u64,
    /// It is another process's, still or by now.
    relinquished: bool,
}

impl ControlSocket {
    /// Takes over one that another process has open. Must run inside a tokio runtime.
    pub(super) fn adopt(path: &Path, socket: OwnedFd) -> Result<Self, ListenerError> {
        let system = |source| ListenerError::System { place: path.display().to_string(), source };
        let inode = std::fs::symlink_metadata(path).map_err(system)?.ino();
        let listener = polled(socket.into()).map_err(system)?;
        Ok(Self { listener, path: path.to_owned(), inode, relinquished: true })
    }

    /// The next client. Dropping the future is safe: no client is lost.
    ///
    /// # Errors
    /// What the system said, and EINVAL for a socket that was shut down: for such a socket,
    /// `accept` itself reports only that no client waits.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let mut ready = self.listener.readable().await?;
            if ready.ready().is_read_closed() {
                return Err(Errno::INVAL.into());
            }
            if let Ok(accepted) = ready.try_io(|listener| listener.get_ref().accept()) {
                let (stream, _) = accepted?;
                stream.set_nonblocking(true)?;
                return UnixStream::from_std(stream);
            }
        }
    }

    /// It is this process's from now on, which removes it in the end.
    pub(super) fn own(&mut self) {
        self.relinquished = false;
    }

    /// Opens it again, after another holder of the socket has shut it down: a Unix socket cannot
    /// listen twice. On an error it stays as it is.
    pub(super) fn reopen(&mut self) -> Result<(), ListenerError> {
        *self = Self::open(&self.path)?;
        Ok(())
    }

    /// Leaves it to another process.
    pub(super) fn relinquish(mut self) {
        self.relinquished = true;
    }

    /// Opens it. A socket that a process left behind is replaced. Must run inside a tokio runtime.
    pub(super) fn open(path: &Path) -> Result<Self, ListenerError> {
        let system = |source| ListenerError::System { place: path.display().to_string(), source };
        let folder =
            path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.exists() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(system)?;
        }
        let seen = std::fs::metadata(folder).map_err(system)?;
        // Whoever may replace the socket may listen in its place. A sticky folder keeps others from
        // that.
        if seen.mode() & 0o022 != 0 && seen.mode() & 0o1000 == 0 {
            return Err(ListenerError::OpenFolder(folder.to_owned()));
        }
        // Its owner may, whatever its mode.
        if seen.uid() != 0 && seen.uid() != getuid().as_raw() {
            return Err(ListenerError::NotOurs(folder.to_owned()));
        }
        make_way(path)?;
        // Nobody else may connect between its making and the change of its mode, so it is made
        // under another name in a folder of its own and moved once it is closed to others.
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let making = folder.join(format!(".{:x}{:x}", std::process::id(), now.subsec_nanos()));
        std::fs::DirBuilder::new().mode(0o700).create(&making).map_err(system)?;
        let made = make(&making.join("s"), path);
        let _ = std::fs::remove_dir_all(&making);
        let listener = made.map_err(system)?;
        let inode = std::fs::symlink_metadata(path).map_err(system)?.ino();
        let listener = polled(listener).map_err(system)?;
        Ok(Self { listener, path: path.to_owned(), inode, relinquished: false })
    }
}

/// Registers a socket with the reactor.
fn polled(listener: StdUnixListener) -> io::Result<AsyncFd<StdUnixListener>> {
    listener.set_nonblocking(true)?;
    // Deprecated because of types that lend a descriptor which is not theirs. A listener owns its
    // own for as long as it lives, which is what the `unsafe fn` in its place asks for.
    #[expect(deprecated)]
    AsyncFd::new(listener)
}

fn make(at: &Path, path: &Path) -> io::Result<StdUnixListener> {
    let listener = StdUnixListener::bind(at)?;
    std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(at, path)?;
    Ok(listener)
}

fn make_way(path: &Path) -> Result<(), ListenerError> {
    let system = |source| ListenerError::System { place: path.display().to_string(), source };
    let seen = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        seen => seen.map_err(system)?,
    };
    if !seen.file_type().is_socket() {
        return Err(ListenerError::InTheWay(path.to_owned()));
    }
    if seen.uid() != getuid().as_raw() {
        return Err(ListenerError::NotOurs(path.to_owned()));
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(system)
        }
        // It answers, or is too busy to.
        _ => Err(ListenerError::Busy(path.to_owned())),
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let own = !self.relinquished
            && std::fs::symlink_metadata(&self.path).is_ok_and(|seen| seen.ino() == self.inode);
        if own {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens a loopback address. Must run inside a tokio runtime.
pub(super) fn open_tcp(address: SocketAddr) -> Result<TcpListener, ListenerError> {
    let system = |source| ListenerError::System { place: address.to_string(), source };
    if !address.ip().is_loopback() {
        return Err(ListenerError::NotLoopback(address));
    }
    let listener = std::net::TcpListener::bind(address).map_err(system)?;
    listener.set_nonblocking(true).map_err(system)?;
    TcpListener::from_std(listener).map_err(system)
}

/// Makes a loopback address listen again, with a new socket or else with the same. Other holders
/// of the old socket cannot shut a new one down. Must run inside a tokio runtime. On an error the
/// old socket is closed.
pub(super) fn reopen_tcp(
    before: Option<TcpListener>,
    address: SocketAddr,
) -> Result<TcpListener, ListenerError> {
    open_tcp(address).or_else(|refused| {
        let before = before.and_then(|before| before.into_std().ok());
        let same = before.filter(|before| listens_again(before, address)).ok_or(refused)?;
        let system = |source| ListenerError::System { place: address.to_string(), source };
        TcpListener::from_std(same).map_err(system)
    })
}

fn listens_again(socket: &std::net::TcpListener, address: SocketAddr) -> bool {
    // A shutdown of a socket that does not listen stays with it until it is disconnected.
    let _ = connect_unspec(socket);
    // A socket whose port the system chose has lost it, and another keeps it: EINVAL.
    let bound = matches!(bind(socket, &address), Ok(()) | Err(Errno::INVAL));
    bound && listen(socket, BACKLOG).is_ok() && socket.local_addr().is_ok_and(|now| now == address)
}

/// Whether an error of `accept` says that the socket does not listen any more.
pub(super) fn is_broken(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP)
    )
}

/// Another descriptor of a socket, for another process.
pub(super) fn duplicate(socket: &impl AsFd) -> io::Result<OwnedFd> {
    socket.as_fd().try_clone_to_owned()
}

/// Takes over one that another process has open. Must run inside a tokio runtime.
pub(super) fn adopt_tcp(
    address: SocketAddr,
    socket: OwnedFd,
) -> Result<TcpListener, ListenerError> {
    let system = |source| ListenerError::System { place: address.to_string(), source };
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true).map_err(system)?;
    TcpListener::from_std(listener).map_err(system)
}
