//! Binding addresses, and accepting connections for the workers.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use super::Error;
use super::activation::Inherited;
use super::places::{Place, Places};
use super::worker::Workers;
use crate::config::Listen;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Limit;

/// Connections that the kernel keeps while nobody accepts.
const BACKLOG: i32 = 4096;

/// Bytes of answers that may wait in the kernel, unsent, on each connection (`TCP_NOTSENT_LOWAT`, tcp(7)). What a client's window
/// lets through does not count, so that nothing is slower; a client that reads nothing costs this much, and not the megabytes
/// to which a socket's buffer grows. Linux.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// How long to wait for a place before somebody is asked again.
const MAKE_ROOM: Duration = Duration::from_millis(200);

/// How long to wait when accepting fails because the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound address. It belongs to no runtime yet, see [`Listener::watch`].
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(std::net::TcpListener, SocketAddr),
    /// A unix socket.
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// A listener that is watched by a runtime, which accepts on it.
#[derive(Debug)]
pub struct Acceptor {
    source: Source,
    /// Where it listens, for people.
    address: String,
    /// There for as long as somebody accepts.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Source {
    /// With our end's address, where the listener knows it: when it listens on one.
    Tcp(AsyncFd<std::net::TcpListener>, Option<SocketAddr>),
    Unix(UnixListener),
}

/// A unix socket's file; removed when this is dropped if it is ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    owner: Owner,
}

/// Whose a unix socket's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// We made it.
    Ours,
    /// It was there before us and stays.
    Inherited,
}

/// A connection's socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp {
        /// It, ready for a runtime.
        stream: std::net::TcpStream,
        /// The other end.
        peer: SocketAddr,
        /// Our end, where the listener knows it: when it listens on one address.
        local: Option<SocketAddr>,
    },
    /// Unix.
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    /// The peer's address and port; `None`: a unix socket.
    pub fn peer(&self) -> Option<(IpAddr, u16)> {
        match self {
            Self::Tcp { peer, .. } => Some((peer.ip().to_canonical(), peer.port())),
            Self::Unix(_) => None,
        }
    }
}

impl Socket {
    /// Our own address and port; `None`: a unix socket.
    pub fn local(&self) -> Option<(IpAddr, u16)> {
        let address = match self {
            Self::Tcp { local: Some(local), .. } => *local,
            Self::Tcp { stream, local: None, .. } => stream.local_addr().ok()?,
            Self::Unix(_) => return None,
        };
        Some((address.ip().to_canonical(), address.port()))
    }
}

/// A connection on its way to a worker, with its place under `max_connections`.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub socket: Socket,
    /// Given back when the connection ends.
    pub place: Place,
}

impl Listener {
    /// Takes the inherited socket of an address, or binds it.
    pub fn open(address: &Listen, inherited: &mut Inherited) -> Result<Self, Error> {
        match address {
            Listen::Tcp(address) => {
                let listener = inherited.take_tcp(*address).map_or_else(|| bind_tcp(*address), adopt_tcp);
                listener
                    .map(|(listener, address)| Self::Tcp(listener, address))
                    .map_err(|source| Error::Bind { address: address.to_string(), source })
            }
            Listen::Unix(path) => {
                let file = |owner| SocketFile { path: path.clone(), owner };
                let listener = match inherited.take_unix(path) {
                    Some(listener) => Ok(Self::Unix(listener, file(Owner::Inherited))),
                    None => bind_unix(path).map(|listener| Self::Unix(listener, file(Owner::Ours))),
                };
                listener.map_err(|source| Error::Bind { address: format!("unix:{}", path.display()), source })
            }
        }
    }

    /// Where it listens, for people.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(_, address) => address.to_string(),
            Self::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }

    /// The TCP address it listens on.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, address) => Some(*address),
            Self::Unix(..) => None,
        }
    }

    /// Has the current runtime watch it.
    ///
    /// # Errors
    ///
    /// The system watches no more sockets.
    pub fn watch(self) -> Result<Acceptor, Error> {
        let address = self.address();
        let (source, file) = match self {
            Self::Tcp(listener, address) => {
                let local = Some(address).filter(|address| !address.ip().is_unspecified());
                (watch_tcp(listener).map(|listener| Source::Tcp(listener, local)), None)
            }
            Self::Unix(listener, file) => (watch_unix(listener).map(Source::Unix), Some(file)),
        };
        match source {
            Ok(source) => Ok(Acceptor { source, address, _file: file }),
            Err(source) => Err(Error::Bind { address, source }),
        }
    }
}

impl Acceptor {
    /// Where it listens, for people.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Accepts until `tasks` stop, and then what already queues in the kernel, so that nobody who has connected is
    /// turned away.
    pub async fn run(self, workers: Arc<Workers>, places: Places, metrics: Arc<Metrics>, tasks: Tasks) {
        loop {
            let stop = tasks.stopped();
            let accepted = tokio::select! {
                biased;
                () = stop => break,
                accepted = self.accept(&places, &metrics) => accepted,
            };
            match accepted {
                Ok(accepted) => workers.take(accepted),
                Err(error) => {
                    // A connection that was reset in the queue says nothing about the next; no descriptors left does.
                    if !matches!(error.kind(), std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset) {
                        tracing::warn!(%error, "a connection could not be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        while let Ok(Ok(accepted)) = timeout(Duration::from_millis(1), self.accept(&places, &metrics)).await {
            workers.take(accepted);
        }
    }

    async fn accept(&self, places: &Places, metrics: &Metrics) -> std::io::Result<Accepted> {
        // The place first: beyond `max_connections` the kernel's queue holds the others back.
        let place = match places.try_take() {
            Some(place) => place,
            None => {
                metrics.limited(Limit::Connections);
                next_place(places).await?
            }
        };
        let socket = match &self.source {
            Source::Tcp(listener, local) => listener.async_io(Interest::READABLE, |listener| accept_tcp(listener, *local)).await?,
            Source::Unix(listener) => Socket::Unix(listener.accept().await?.0.into_std()?),
        };
        Ok(Accepted { socket, place })
    }
}

/// The next place that is free, for which those who do nothing on theirs are asked to leave.
async fn next_place(places: &Places) -> std::io::Result<Place> {
    loop {
        let asked = places.make_room(Instant::now());
        tracing::debug!(asked, "server.max_connections is reached: others have to wait");
        if let Ok(place) = timeout(MAKE_ROOM, places.take()).await {
            return place.map_err(std::io::Error::other);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.owner == Owner::Ours {
            let _gone_already = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes a connection for a worker's runtime: accepting it into this one would register it here, in vain if another serves it.
fn accept_tcp(listener: &std::net::TcpListener, local: Option<SocketAddr>) -> std::io::Result<Socket> {
    let (socket, peer) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let peer = peer.ok_or(std::io::ErrorKind::ConnectionAborted)?.try_into()?;
    Ok(Socket::Tcp { stream: socket.into(), peer, local })
}

fn adopt_tcp(listener: std::net::TcpListener) -> std::io::Result<(std::net::TcpListener, SocketAddr)> {
    listener.set_nonblocking(true)?;
    // Answers are written whole, so waiting for more (Nagle) only delays them. What is accepted inherits this from the
    // listener on Linux.
    SockRef::from(&listener).set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(&listener).set_tcp_notsent_lowat(UNSENT)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

#[expect(deprecated, reason = "the other way is unsafe code; this one is sound for whatever owns its descriptor, as a listener does")]
fn watch_tcp(listener: std::net::TcpListener) -> std::io::Result<AsyncFd<std::net::TcpListener>> {
    AsyncFd::with_interest(listener, Interest::READABLE)
}

fn watch_unix(listener: std::os::unix::net::UnixListener) -> std::io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn bind_tcp(address: SocketAddr) -> std::io::Result<(std::net::TcpListener, SocketAddr)> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    adopt_tcp(socket.into())
}

/// A socket file that nobody listens on any more is removed; one that answers is somebody else's.
fn bind_unix(path: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, "there is a file that is not a socket"));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another process listens on it"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    // Who may connect is decided by the folder's mode and this one: the group of a web server, say.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// A stream of either kind, back on a runtime.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Stream {
    /// Registers a socket with the current runtime.
    pub fn from_socket(socket: Socket) -> std::io::Result<Self> {
        match socket {
            Socket::Tcp { stream, .. } => TcpStream::from_std(stream).map(Self::Tcp),
            Socket::Unix(stream) => UnixStream::from_std(stream).map(Self::Unix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_accepted_inherits_how_it_sends() {
        let (listener, address) = bind_tcp(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let socket = accept_tcp(&listener, Some(address)).unwrap();
        let Socket::Tcp { stream, .. } = socket else { panic!("it is TCP") };
        let socket = SockRef::from(&stream);
        assert_eq!((socket.tcp_notsent_lowat().unwrap(), socket.tcp_nodelay().unwrap()), (UNSENT, true));
    }
}
