//! The PROXY protocol, versions 1 and 2: a trusted proxy reports the client's real address.
//!
//! The header is read exactly, so that the client's first byte stays in the socket for the
//! handshake or the session.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

use super::Accepted;
use super::refusal::is_refused_by_system;

/// Longest header of version 1 in bytes, by its specification.
const V1_MAX_BYTES: usize = 107;
/// Bytes that every header of either version has. The shortest header is `PROXY UNKNOWN` with its
/// line end.
const FIRST_BYTES: usize = 15;
/// Bytes at the start of every header of version 2: signature, command, family and length.
pub(super) const V2_START_BYTES: usize = 16;
/// Longest header of version 2 that is read, in bytes. Addresses take 36 bytes, extensions the
/// rest.
pub(super) const V2_MAX_BYTES: usize = 4 << 10;

/// Why a client behind a proxy is not admitted. All but [`ProxyError::System`] are the proxy's
/// doing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// There was no header within the time for a handshake.
    #[error("no PROXY header in time")]
    Timeout,
    /// The connection ended or broke before the header was complete.
    #[error("the connection ended inside the PROXY header: {0}")]
    Gone(#[source] io::Error),
    /// The received bytes are no header.
    #[error("no PROXY header: {0}")]
    Malformed(String),
    /// The system refused the host a place for the connection.
    #[error("the system refused a place for the connection: {0}")]
    System(#[source] io::Error),
}

impl From<io::Error> for ProxyError {
    fn from(error: io::Error) -> Self {
        if is_refused_by_system(&error) { Self::System(error) } else { Self::Gone(error) }
    }
}

impl ProxyError {
    /// Every name.
    pub const NAMES: [&'static str; 4] =
        ["proxy-timeout", "proxy-gone", "proxy-header", "proxy-refused"];

    /// Returns the stable name for logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let [timeout, gone, malformed, refused] = Self::NAMES;
        match self {
            Self::Timeout => timeout,
            Self::Gone(_) => gone,
            Self::Malformed(_) => malformed,
            Self::System(_) => refused,
        }
    }
}

impl Accepted {
    /// Reads the header, and takes the client's address from it. If the proxy speaks for itself,
    /// the address stays the proxy's.
    ///
    /// Must run inside a tokio runtime. Has no time limit of its own: dropping the future closes
    /// the connection.
    ///
    /// # Errors
    /// [`ProxyError`]; the connection is closed.
    pub async fn behind_proxy(self) -> Result<Self, ProxyError> {
        let Self { stream, peer, local } = self;
        let mut stream = TcpStream::from_std(stream).map_err(ProxyError::System)?;
        let header = header(&mut stream).await?;
        let stream = stream.into_std().map_err(ProxyError::System)?;
        let told = header.map(|(source, destination)| (canonical(source), canonical(destination)));
        let (peer, local) = told.unwrap_or((peer, local));
        Ok(Self { stream, peer, local })
    }
}

/// Reads source and destination, if the proxy names them.
pub(super) async fn header(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<(SocketAddr, SocketAddr)>, ProxyError> {
    let mut bytes = vec![0; FIRST_BYTES];
    stream.read_exact(&mut bytes).await?;
    if bytes.starts_with(v2::PROTOCOL_PREFIX) {
        bytes.resize(V2_START_BYTES, 0);
        stream.read_exact(&mut bytes[FIRST_BYTES..]).await?;
        let rest = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
        if rest > V2_MAX_BYTES {
            return Err(ProxyError::Malformed(format!(
                "{rest} bytes, of which at most {V2_MAX_BYTES} are read"
            )));
        }
        bytes.resize(V2_START_BYTES + rest, 0);
        stream.read_exact(&mut bytes[V2_START_BYTES..]).await?;
        return version_2(&bytes);
    }
    if !bytes.starts_with(v1::PROTOCOL_PREFIX.as_bytes()) {
        return Err(ProxyError::Malformed("neither version starts like this".into()));
    }
    // One byte at a time, since the bytes after the line are the client's.
    while !bytes.ends_with(b"\r\n") {
        if bytes.len() == V1_MAX_BYTES {
            return Err(ProxyError::Malformed("the line does not end".into()));
        }
        bytes.push(stream.read_u8().await?);
    }
    version_1(&bytes)
}

fn version_1(bytes: &[u8]) -> Result<Option<(SocketAddr, SocketAddr)>, ProxyError> {
    // The library's number parser takes a sign, and the format does not.
    if bytes.contains(&b'+') {
        return Err(ProxyError::Malformed("a number has a sign".into()));
    }
    let header =
        v1::Header::try_from(bytes).map_err(|error| ProxyError::Malformed(error.to_string()))?;
    Ok(match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(tcp) => Some((
            (tcp.source_address, tcp.source_port).into(),
            (tcp.destination_address, tcp.destination_port).into(),
        )),
        v1::Addresses::Tcp6(tcp) => Some((
            (tcp.source_address, tcp.source_port).into(),
            (tcp.destination_address, tcp.destination_port).into(),
        )),
    })
}

fn version_2(bytes: &[u8]) -> Result<Option<(SocketAddr, SocketAddr)>, ProxyError> {
    let header =
        v2::Header::try_from(bytes).map_err(|error| ProxyError::Malformed(error.to_string()))?;
    if header.command == v2::Command::Local {
        return Ok(None);
    }
    if header.protocol != v2::Protocol::Stream {
        return Err(ProxyError::Malformed("the client's protocol is not TCP".into()));
    }
    // An extension that is cut short makes the whole header malformed.
    if let Some(Err(error)) = header.tlvs().find(Result::is_err) {
        return Err(ProxyError::Malformed(error.to_string()));
    }
    match header.addresses {
        v2::Addresses::IPv4(ip) => Ok(Some((
            (ip.source_address, ip.source_port).into(),
            (ip.destination_address, ip.destination_port).into(),
        ))),
        v2::Addresses::IPv6(ip) => Ok(Some((
            (ip.source_address, ip.source_port).into(),
            (ip.destination_address, ip.destination_port).into(),
        ))),
        _ => Err(ProxyError::Malformed("neither IPv4 nor IPv6".into())),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[tokio::test]
    async fn refused_registration_is_not_the_proxys_doing() {
        let error = Accepted::without_events().behind_proxy().await.expect_err("no events");
        assert_eq!(error.name(), "proxy-refused", "{error}");
    }

    #[test]
    fn broken_connections_stay_the_proxys_doing() {
        for (errno, name) in [
            (Errno::CONNRESET, "proxy-gone"),
            (Errno::PIPE, "proxy-gone"),
            (Errno::NOMEM, "proxy-refused"),
            (Errno::NOBUFS, "proxy-refused"),
        ] {
            let error = ProxyError::from(io::Error::from(errno));
            assert_eq!(error.name(), name, "{error}");
        }
    }
}
