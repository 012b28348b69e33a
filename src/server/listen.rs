//! Binding addresses, and accepting connections for the workers.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Error;
use super::worker::Workers;
use crate::config::Listen;
use crate::tasks::Tasks;

/// Connections that the kernel keeps while nobody accepts.
const BACKLOG: i32 = 4096;

/// How long to wait when accepting fails because the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound address.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket, removed when this is dropped.
    Unix(UnixListener, PathBuf),
}

/// A connection's socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(std::net::TcpStream, SocketAddr),
    /// Unix.
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    /// The peer's address and port; `None`: a unix socket.
    pub fn peer(&self) -> Option<(IpAddr, u16)> {
        match self {
            Self::Tcp(_, peer) => Some((peer.ip().to_canonical(), peer.port())),
            Self::Unix(_) => None,
        }
    }
}

/// A connection on its way to a worker, with its place under `max_connections`.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub socket: Socket,
    /// Given back when the connection ends.
    pub permit: OwnedSemaphorePermit,
}

impl Listener {
    /// Binds an address; must be called within a runtime.
    pub fn bind(address: &Listen) -> Result<Self, Error> {
        match address {
            Listen::Tcp(address) => {
                bind_tcp(*address).map(Self::Tcp).map_err(|source| Error::Bind { address: address.to_string(), source })
            }
            Listen::Unix(path) => bind_unix(path)
                .map(|listener| Self::Unix(listener, path.clone()))
                .map_err(|source| Error::Bind { address: format!("unix:{}", path.display()), source }),
        }
    }

    /// Where it listens, for people.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string()),
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// The TCP address it listens on.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Accepts until `tasks` stop, and then what already queues in the kernel, so that nobody who has connected is
    /// turned away.
    pub async fn run(self, workers: Arc<Workers>, connections: Arc<Semaphore>, tasks: Tasks) {
        loop {
            let stop = tasks.stopped();
            let accepted = tokio::select! {
                biased;
                () = stop => break,
                accepted = self.accept(&connections) => accepted,
            };
            match accepted {
                Ok(accepted) => workers.take(accepted),
                Err(error) => {
                    // A connection that was reset in the queue says nothing about the next; no descriptors left does.
                    if !matches!(error.kind(), std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset) {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        while let Ok(Ok(accepted)) = tokio::time::timeout(Duration::from_millis(1), self.accept(&connections)).await {
            workers.take(accepted);
        }
    }

    async fn accept(&self, connections: &Arc<Semaphore>) -> std::io::Result<Accepted> {
        // The place first: beyond `max_connections` the kernel's queue holds the others back.
        let permit = Arc::clone(connections).acquire_owned().await.map_err(std::io::Error::other)?;
        let socket = match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Socket::Tcp(prepare(stream)?, peer)
            }
            Self::Unix(listener, _) => Socket::Unix(listener.accept().await?.0.into_std()?),
        };
        Ok(Accepted { socket, permit })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _gone_already = std::fs::remove_file(path);
        }
    }
}

/// Answers are written whole, so waiting for more (Nagle) only delays them.
fn prepare(stream: TcpStream) -> std::io::Result<std::net::TcpStream> {
    stream.set_nodelay(true)?;
    stream.into_std()
}

fn bind_tcp(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A socket file that nobody listens on any more is removed; one that answers is somebody else's.
fn bind_unix(path: &Path) -> std::io::Result<UnixListener> {
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, "there is a file that is not a socket"));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another process listens on it"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
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
            Socket::Tcp(stream, _) => TcpStream::from_std(stream).map(Self::Tcp),
            Socket::Unix(stream) => UnixStream::from_std(stream).map(Self::Unix),
        }
    }

    /// Our own address and port; `None`: a unix socket.
    pub fn local_address(&self) -> Option<(IpAddr, u16)> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok().map(|address| (address.ip().to_canonical(), address.port())),
            Self::Unix(_) => None,
        }
    }
}
