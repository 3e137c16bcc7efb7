//! The thread that serves the control API.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::getuid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

pub use super::auth::Token;
use super::auth::{self, Caller};
use super::connections::{Connection, Connections};
use super::listener::{
    ControlSocket, ListenerError, accept_tcp, adopt_tcp, duplicate, is_broken, open_tcp, reopen_tcp,
};
use super::peer::ApiPeer;
use super::reload::Reload;
use super::router::router;
use super::state::{EndpointSockets, Shared};
use super::upgrade::Upgrade;
use super::write_timeout::WriteTimeout;
use crate::servers::Servers;
use crate::telemetry::{ControlBroken, ControlOpened, ControlReopened};
use crate::upgrade::ControlEndpoint;

/// Time that the head of a request may take, and that a connection may idle between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The same time on the loopback address, which callers without a token can reach.
const STRANGERS_HEAD_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time for which a client may read nothing of its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const HEAD_MAX_BYTES: usize = 16 << 10;
/// Pause after an error of `accept`. Its usual cause is that the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Pause between attempts to open a control endpoint again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// Time that open requests, such as the one for the upgrade, may take to get their answers once a
/// new process serves and this one is told to end.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// Niceness of the API's thread, which puts it behind the threads of sessions.
const NICENESS: i32 = 19;

/// The sockets of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlConfig {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// A loopback address beside the Unix socket, with its token. `None`: no such address.
    pub listen: Option<(SocketAddr, Token)>,
}

/// Why the API does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// A socket cannot be opened.
    #[error(transparent)]
    ControlEndpoint(#[from] ListenerError),
    /// The API's thread or its runtime cannot be started.
    #[error("cannot start the thread of the control API: {0}")]
    Thread(#[from] io::Error),
}

/// The running API. Dropping it closes the API and removes the socket's file.
pub struct Control {
    address: Option<SocketAddr>,
    thread: Option<std::thread::JoinHandle<()>>,
    stop: Option<oneshot::Sender<()>>,
}

/// The API with open sockets, before it has servers. Requests wait in the backlog until
/// [`Self::serve`]. Dropping it closes the API.
pub struct Opening {
    control: Control,
    socket: PathBuf,
    served: oneshot::Sender<(Arc<Servers>, Reload, Option<Upgrade>)>,
    adopted: Vec<ControlEndpoint>,
}

impl Opening {
    /// Starts to answer requests, for these servers.
    #[must_use]
    pub fn serve(self, servers: Arc<Servers>, reload: Reload, upgrade: Option<Upgrade>) -> Control {
        // The send fails only if the thread has ended. Then nothing can answer requests.
        if self.served.send((servers, reload, upgrade)).is_ok() {
            ControlOpened { socket: &self.socket, address: self.control.address }.emit();
        }
        self.control
    }

    /// The control endpoints of the old process whose sockets this API has taken over.
    #[must_use]
    pub fn adopted(&self) -> &[ControlEndpoint] {
        &self.adopted
    }
}

impl Control {
    /// Starts the API for these servers, on a thread of its own.
    ///
    /// # Errors
    /// [`ControlError`]; nothing is left open.
    pub fn start(
        config: &ControlConfig,
        servers: Arc<Servers>,
        reload: Reload,
    ) -> Result<Self, ControlError> {
        Ok(Self::open(config, Vec::new())?.serve(servers, reload, None))
    }

    /// Opens the socket and the address before any server starts, so that a process that cannot
    /// have them starts nothing. Sockets in `handed`, which an old process has open, are taken over
    /// instead.
    ///
    /// # Errors
    /// [`ControlError`]; nothing is left open.
    pub fn open(
        config: &ControlConfig,
        handed: Vec<(ControlEndpoint, OwnedFd)>,
    ) -> Result<Opening, ControlError> {
        let (served, serves) = oneshot::channel();
        let (ready, opened) = sync_channel(1);
        let (stop, stopped) = oneshot::channel::<()>();
        let (config, socket) = (config.clone(), config.socket.clone());
        let leaving = Arc::new(AtomicBool::new(false));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("wharf-control".into()).spawn(move || {
            // If the system refuses, the kernel shares the CPU evenly, which does no harm.
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
            runtime.block_on(async {
                let (endpoints, adopted) = match open(&config, handed) {
                    Ok(opened) => opened,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let address = endpoints.1.as_ref().and_then(|(tcp, _)| tcp.local_addr().ok());
                let _ = ready.send(Ok((address, adopted)));
                let work = async {
                    if let Ok((servers, reload, upgrade)) = serves.await {
                        // If the process has no descriptors left for the duplicates, a new process
                        // cannot take over the API's sockets. Everything else works.
                        let ways = duplicates(&config, &endpoints).unwrap_or_default();
                        let shared =
                            Shared::new(servers, (reload, upgrade), ways, Arc::clone(&leaving));
                        serve(&config, endpoints, shared).await;
                    }
                };
                let mut work = pin!(work);
                tokio::select! {
                    () = &mut work => {}
                    _ = stopped => {
                        // The request for an upgrade still needs its answer.
                        if leaving.load(Ordering::Relaxed) {
                            let _ = tokio::time::timeout(GOODBYE_MAX, work).await;
                        }
                    }
                }
            });
            runtime.shutdown_background();
        })?;
        let gone = |_| ControlError::Thread(io::Error::other("it ended"));
        let (address, adopted) = opened.recv().map_err(gone)??;
        let control = Self { address, thread: Some(thread), stop: Some(stop) };
        Ok(Opening { control, socket, served, adopted })
    }

    /// The loopback address with its real port. `None` if the API has no such address.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Endpoints = (ControlSocket, Option<(TcpListener, Token)>);

fn open(
    config: &ControlConfig,
    mut handed: Vec<(ControlEndpoint, OwnedFd)>,
) -> Result<(Endpoints, Vec<ControlEndpoint>), ListenerError> {
    let mut adopted = Vec::new();
    let mut take = |endpoint: ControlEndpoint| {
        let at = handed.iter().position(|(other, _)| *other == endpoint)?;
        adopted.push(endpoint);
        Some(handed.swap_remove(at).1)
    };
    let tcp = match &config.listen {
        Some((address, token)) => {
            let socket = match take(ControlEndpoint::Tcp(*address)) {
                Some(socket) => adopt_tcp(*address, socket)?,
                None => open_tcp(*address)?,
            };
            Some((socket, token.clone()))
        }
        None => None,
    };
    let unix = match take(ControlEndpoint::Unix(config.socket.clone())) {
        Some(socket) => ControlSocket::adopt(&config.socket, socket)?,
        None => ControlSocket::open(&config.socket)?,
    };
    Ok(((unix, tcp), adopted))
}

fn duplicates(config: &ControlConfig, (unix, tcp): &Endpoints) -> io::Result<EndpointSockets> {
    let mut ways = vec![(ControlEndpoint::Unix(config.socket.clone()), duplicate(&unix.listener)?)];
    if let (Some((address, _)), Some((tcp, _))) = (&config.listen, tcp) {
        ways.push((ControlEndpoint::Tcp(*address), duplicate(tcp)?));
    }
    Ok(ways)
}

/// Accepts and serves connections. Returns once another process serves the API and every open
/// connection has ended.
async fn serve(config: &ControlConfig, (mut unix, tcp): Endpoints, shared: Arc<Shared>) {
    unix.own();
    let place_of_unix = config.socket.display().to_string();
    let router = router(Arc::clone(&shared));
    let mut spare = reserve();
    // Each socket has places of its own, so callers without a token cannot lock out the owner.
    let (connections, tcp_connections) = (Connections::default(), Connections::default());
    let through_unix = async {
        loop {
            let place = connections.next().await;
            let accepted = unix.accept().await;
            if accepted.is_ok() && spare.is_none() {
                spare = reserve();
            }
            match accepted {
                // The socket's mode admits only the owner and root. This check does the same on a
                // file system that ignores modes.
                Ok(stream) if stream.peer_cred().is_ok_and(|peer| is_owner(peer.uid())) => {
                    tokio::spawn(talk(stream, Arc::clone(&shared), router.clone(), None, place));
                }
                Ok(_) => {}
                Err(error) if is_broken(&error) => {
                    let endpoint = ControlEndpoint::Unix(config.socket.clone());
                    ControlBroken { place: &place_of_unix, error: &error }.emit();
                    while let Err(error) = unix.reopen() {
                        ControlBroken { place: &place_of_unix, error: &error }.emit();
                        tokio::time::sleep(REOPEN_PAUSE).await;
                    }
                    shared.reopened(&endpoint, duplicate(&unix.listener).ok());
                    ControlReopened { place: &place_of_unix }.emit();
                    // A socket that breaks again at once must not make this loop spin.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                // The process is out of descriptors. The spare one is freed for the next caller, so
                // that an operator can find out why.
                Err(_) if spare.take().is_some() => {}
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    };
    let through_tcp = async {
        let Some((mut listener, token)) = tcp else { return std::future::pending().await };
        let at = listener.local_addr();
        loop {
            let place = tcp_connections.next().await;
            match accept_tcp(&listener).await {
                Ok(stream) => {
                    let token = Some(token.clone());
                    tokio::spawn(talk(stream, Arc::clone(&shared), router.clone(), token, place));
                }
                Err(error) if is_broken(&error) && at.is_ok() => {
                    let (Ok(at), Some((configured, _))) = (&at, &config.listen) else { continue };
                    listener = reopened(listener, *at, &error).await;
                    shared.reopened(&ControlEndpoint::Tcp(*configured), duplicate(&listener).ok());
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    };
    let to_another = tokio::select! {
        _ = async { tokio::join!(through_unix, through_tcp) } => false,
        to_another = shared.left() => to_another,
    };
    if to_another {
        unix.relinquish();
    }
    connections.ended().await;
}

/// Opens a broken loopback address again. Tries once a second until it succeeds.
async fn reopened(broken: TcpListener, at: SocketAddr, error: &io::Error) -> TcpListener {
    let place = at.to_string();
    ControlBroken { place: &place, error }.emit();
    let mut before = Some(broken);
    loop {
        match reopen_tcp(before.take(), at) {
            Ok(listener) => {
                ControlReopened { place: &place }.emit();
                return listener;
            }
            Err(error) => ControlBroken { place: &place, error: &error }.emit(),
        }
        tokio::time::sleep(REOPEN_PAUSE).await;
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

fn is_owner(uid: u32) -> bool {
    uid == 0 || uid == getuid().as_raw()
}

async fn talk<S>(
    stream: S,
    shared: Arc<Shared>,
    router: Router,
    token: Option<Token>,
    place: Connection,
) where
    S: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static,
{
    let peer = ApiPeer::new(&stream);
    let head_timeout = if token.is_some() { STRANGERS_HEAD_TIMEOUT } else { HEAD_TIMEOUT };
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, token, peer, shared) =
            (router.clone(), token.clone(), peer.clone(), Arc::clone(&shared));
        let place = place.clone();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(place);
            let allowed = match &token {
                Some(token) => auth::remote(&request, token),
                None => auth::local(&request),
            };
            match allowed {
                Ok(Caller::Owner) => tower_call(router, request).await,
                Ok(Caller::Stranger) => Ok(and_goodbye(tower_call(router, request).await?)),
                Err(problem) => {
                    let response = problem.into_response();
                    let (method, path) = (request.method().as_str(), request.uri().path());
                    shared.refused(method, path, response.status().as_u16());
                    Ok::<_, std::convert::Infallible>(and_goodbye(response))
                }
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(HEAD_MAX_BYTES)
        .serve_connection(TokioIo::new(WriteTimeout::new(stream, ANSWER_TIMEOUT)), service);
    // A client may break off its connection at any time; that is no event for the log.
    let _ = connection.await;
}

/// Closes the connection after this answer. A caller without a token gets one answer for each
/// connection, which frees places for callers with a token.
fn and_goodbye(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn tower_call(
    router: Router,
    request: Request<Body>,
) -> Result<Response, std::convert::Infallible> {
    use hyper::service::Service;
    hyper_util::service::TowerToHyperService::new(router).call(request).await
}
