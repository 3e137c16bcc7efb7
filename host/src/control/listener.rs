//! The listening sockets of the control API: a Unix socket that only its owner can use, and a
//! loopback address.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{bind, connect_unspec, listen};
use rustix::process::getuid;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Backlog of a loopback address that is opened again, in connections.
const BACKLOG: i32 = 128;

/// Why the control API cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenerError {
    /// Another process answers at the socket's path.
    #[error("{}: another process serves its control API there; stop it, or name another \
        `control.socket`", .0.display())]
    Busy(PathBuf),
    /// A file at the socket's path is no socket.
    #[error("{}: is in the way and no socket; remove it, or name another \
        `control.socket`", .0.display())]
    InTheWay(PathBuf),
    /// The socket or its folder belongs to another user.
    #[error("{}: belongs to another user; name another `control.socket`", .0.display())]
    NotOurs(PathBuf),
    /// Other users may write to the socket's folder.
    #[error("{}: others may write to this folder; a control socket needs one that only its owner \
        can write to", .0.display())]
    OpenFolder(PathBuf),
    /// The system refused to open the socket or the address.
    #[error("{place}: cannot open the control API: {source}")]
    System {
        /// The socket's path, or the address.
        place: String,
        /// The error of the system.
        source: io::Error,
    },
    /// `control.listen` is no loopback address.
    #[error(
        "`control.listen`: {0} is no loopback address; the API is for this machine, so put a proxy \
         of your own before it"
    )]
    NotLoopback(SocketAddr),
    /// `control.listen` is given without `control.token_file`.
    #[error(
        "`control.token_file`: missing; any program that reaches a port may use it, so \
         `control.listen` \
         needs a token"
    )]
    NoToken,
    /// The token's file cannot be read, or its token is too short or not printable.
    #[error("{}: {problem}", .file.display())]
    Token {
        /// The token's file.
        file: PathBuf,
        /// What is wrong with the file or the token.
        problem: String,
    },
}

/// The socket's default path: in the user's run-time folder, or in `/run/wharf` for root. Without
/// a run-time folder, a user gets a folder of their own in the system's temporary folder.
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

/// A Unix socket at a path. Dropping it removes the file, if this process still owns the file.
pub(super) struct ControlSocket {
    pub(super) listener: AsyncFd<StdUnixListener>,
    path: PathBuf,
    inode: u64,
    /// Whether another process owns the socket's file.
    relinquished: bool,
}

impl ControlSocket {
    /// Takes over a socket that another process has open. Must run inside a tokio runtime.
    pub(super) fn adopt(path: &Path, socket: OwnedFd) -> Result<Self, ListenerError> {
        let system = |source| ListenerError::System { place: path.display().to_string(), source };
        let inode = std::fs::symlink_metadata(path).map_err(system)?.ino();
        let listener = polled(socket.into()).map_err(system)?;
        Ok(Self { listener, path: path.to_owned(), inode, relinquished: true })
    }

    /// Accepts the next client. Cancel safe: dropping the future loses no client.
    ///
    /// # Errors
    /// The system's error. EINVAL if the socket was shut down: for such a socket, `accept` itself
    /// reports only that no client waits.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let mut ready = self.listener.readable().await?;
            if ready.ready().is_read_closed() {
                return Err(Errno::INVAL.into());
            }
            let accept = |listener: &AsyncFd<StdUnixListener>| {
                keep_nonblocking(listener.get_ref());
                listener.get_ref().accept()
            };
            if let Ok(accepted) = ready.try_io(accept) {
                let (stream, _) = accepted?;
                stream.set_nonblocking(true)?;
                return UnixStream::from_std(stream);
            }
        }
    }

    /// Makes this process the owner of the socket's file, which it removes at its end.
    pub(super) fn own(&mut self) {
        self.relinquished = false;
    }

    /// Opens a new socket at the path, after another holder has shut this one down: a Unix socket
    /// cannot listen twice. On an error nothing changes.
    pub(super) fn reopen(&mut self) -> Result<(), ListenerError> {
        *self = Self::open(&self.path)?;
        Ok(())
    }

    /// Drops the socket and leaves its file to another process.
    pub(super) fn relinquish(mut self) {
        self.relinquished = true;
    }

    /// Opens a socket at a path. Replaces a socket that no process listens at. Must run inside a
    /// tokio runtime.
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
        // A user who may replace the socket may listen in its place. A sticky folder prevents that.
        if seen.mode() & 0o022 != 0 && seen.mode() & 0o1000 == 0 {
            return Err(ListenerError::OpenFolder(folder.to_owned()));
        }
        // The folder's owner may replace the socket under any mode.
        if seen.uid() != 0 && seen.uid() != getuid().as_raw() {
            return Err(ListenerError::NotOurs(folder.to_owned()));
        }
        make_way(path)?;
        // No other user may connect before the socket has its mode. So it is made in a private
        // folder, gets its mode there, and is then moved to its path.
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

/// Makes a socket non-blocking and registers it with the reactor.
fn polled(listener: StdUnixListener) -> io::Result<AsyncFd<StdUnixListener>> {
    listener.set_nonblocking(true)?;
    // Tokio deprecated this call for types that lend a descriptor which they do not own. A
    // listener owns its descriptor for its whole life, as the `unsafe fn` that replaces it asks.
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
        // A process answers, or is too busy to answer.
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

/// Makes a loopback address listen again. Opens a new socket, because other holders of the old
/// one cannot shut that down. If the system refuses a new socket, tries the old one again.
///
/// Must run inside a tokio runtime. On an error the old socket is closed.
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
    // The state of a shutdown stays with a socket until it is disconnected.
    let _ = connect_unspec(socket);
    // A socket whose port the system chose has lost the port, so this binds it again. A socket
    // whose port was configured has kept it: EINVAL.
    let bound = matches!(bind(socket, &address), Ok(()) | Err(Errno::INVAL));
    bound && listen(socket, BACKLOG).is_ok() && socket.local_addr().is_ok_and(|now| now == address)
}

/// Accepts the next client of a loopback address. Cancel safe.
///
/// # Errors
/// The system's error.
pub(super) async fn accept_tcp(listener: &TcpListener) -> io::Result<TcpStream> {
    keep_nonblocking(listener);
    listener.accept().await.map(|(stream, _)| stream)
}

/// Makes `accept` non-blocking again, because any holder of a socket can change that for all. A
/// blocking `accept` would hold up the thread of the API.
fn keep_nonblocking(socket: &impl AsFd) {
    // `accept` reports a descriptor that is lost.
    let _ = ioctl_fionbio(socket, true);
}

/// Whether an error of `accept` means that the socket no longer listens.
pub(super) fn is_broken(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP)
    )
}

/// Duplicates a socket's descriptor, for another process.
pub(super) fn duplicate(socket: &impl AsFd) -> io::Result<OwnedFd> {
    socket.as_fd().try_clone_to_owned()
}

/// Takes over a loopback socket that another process has open. Must run inside a tokio runtime.
pub(super) fn adopt_tcp(
    address: SocketAddr,
    socket: OwnedFd,
) -> Result<TcpListener, ListenerError> {
    let system = |source| ListenerError::System { place: address.to_string(), source };
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true).map_err(system)?;
    TcpListener::from_std(listener).map_err(system)
}
