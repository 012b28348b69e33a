//! The command line's way to a running server: one HTTP request on a unix socket in the data folder.
//!
//! Two things keep others out: the socket's mode 0600, and the kernel's word about who is at the other end, which
//! must be the user that the server runs as, or root. No password, no token: who may open the data folder may do this.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::command::{Answer, Command, CommandError, execute};
use crate::auth::Auth;
use crate::clock::Clock;
use crate::tasks::Tasks;

/// Where the one request goes.
const PATH: &str = "/command";

/// The longest request in bytes. A command is a few names and at most a password.
const MAX_REQUEST: usize = 64 << 10;

/// The longest answer in bytes; a page of accounts with all their groups stays far below.
const MAX_ANSWER: usize = 64 << 20;

/// How long a client may take to send a request, and a stopped server's last command may still run.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a server may take to answer: hashing behind a full queue of sign-ins is the slowest it does.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// Commands at a time.
const MAX_CONNECTIONS: usize = 16;

/// The longest path the kernel takes for a socket, in bytes: `sun_path` without its closing zero. Linux has 108, the
/// BSDs and macOS have 104.
const MAX_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// A socket that is listened on; the file goes when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    owner: u32,
}

impl Listener {
    /// Takes the socket at `path`. One that a crashed server left behind is replaced; one that answers is not, and
    /// neither is a file that is no socket. Needs a runtime around it.
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        check_length(path)?;
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        match UnixStream::connect(path).await {
            Ok(_) => return Err(BindError::InUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if !std::fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
                    return Err(BindError::NoSocket(path.to_owned()));
                }
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let socket = UnixListener::bind(path).map_err(failed)?;
        let listener = Self { socket, path: path.to_owned(), owner: own_uid().map_err(failed)? };
        // Whoever is quick enough to connect before this is turned away by the check of its user id.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(listener)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the command line's socket could not be removed");
        }
    }
}

/// Answers commands until `tasks` is asked to stop. A command that has begun is finished first.
pub async fn serve(listener: Listener, auth: Arc<Auth>, clock: Clock, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = tasks.stopped() => return,
            accepted = listener.socket.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the command line's socket could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == listener.owner || peer.uid() == 0 => {}
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), "another user's connection to the command line's socket was refused");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the command line's socket was refused: nobody knows whose it is");
                continue;
            }
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (auth, clock, tasks_of_it, stop) = (Arc::clone(&auth), clock.clone(), tasks.clone(), tasks.stopped());
        tasks.spawn(async move {
            converse(stream, &auth, &clock, &tasks_of_it, stop).await;
            drop(place);
        });
    }
}

/// One connection, one request after the other.
async fn converse(stream: UnixStream, auth: &Arc<Auth>, clock: &Clock, tasks: &Tasks, stop: impl Future<Output = ()>) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request, auth, clock, tasks).await) });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(16 << 10);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(PATIENCE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the command line's socket broke");
    }
}

async fn answer<B>(request: Request<B>, auth: &Arc<Auth>, clock: &Clock, tasks: &Tasks) -> Response<Full<Bytes>>
where
    B: Body<Data: Send> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if request.uri().path() != PATH {
        return reply(StatusCode::NOT_FOUND, "text/plain", "not found");
    }
    if request.method() != Method::POST {
        return reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "POST only");
    }
    let body = tokio::time::timeout(PATIENCE, Limited::new(request.into_body(), MAX_REQUEST).collect()).await;
    let Ok(Ok(body)) = body else {
        return reply(StatusCode::BAD_REQUEST, "text/plain", "the command did not arrive, or is too long");
    };
    // It may hold a password.
    let body = Zeroizing::new(Vec::from(body.to_bytes()));
    // serde's message repeats what it did not understand, which may be the password.
    let Ok(command) = serde_json::from_slice::<Command>(&body) else {
        return reply(StatusCode::BAD_REQUEST, "text/plain", "not a command that this version knows");
    };
    // A task of its own: that the client goes away must not leave a command half done.
    let (auth, now) = (Arc::clone(auth), clock.now());
    let result = match tasks.spawn(async move { execute(&auth, command, now).await }).await {
        Ok(result) => result,
        Err(_) => Err(CommandError::Failed("the command broke off".to_owned())),
    };
    match serde_json::to_vec(&result) {
        Ok(body) => reply(StatusCode::OK, "application/json", body),
        Err(_) => reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "the answer can't be written"),
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// Asks the server at `path`. Needs a runtime with I/O around it.
pub async fn call(path: &Path, command: &Command) -> Result<Answer, CallError> {
    // A path that no server can listen on is one that no server listens on, but the operator should know why.
    check_length(path).map_err(CallError::Path)?;
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(CallError::NoServer);
        }
        Err(source) => return Err(CallError::Io { path: path.to_owned(), source }),
    };
    let broke = |error: hyper::Error| CallError::Broke(error.to_string());
    let body = serde_json::to_vec(command).map_err(|error| CallError::Broke(error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let exchange = async {
        let request = Request::post(PATH)
            .header(HOST, "nullpass")
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, body.len())
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| CallError::Broke(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(broke)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = Zeroizing::new(Vec::from(body.map_err(|error| CallError::Broke(error.to_string()))?.to_bytes()));
        if status != StatusCode::OK {
            return Err(CallError::Refused(status, String::from_utf8_lossy(&body).into_owned()));
        }
        let result: Result<Answer, CommandError> = serde_json::from_slice(&body).map_err(|_| CallError::OtherVersion)?;
        Ok(result?)
    };
    // Both in this task: the connection does the exchange's reading and writing, and ends with it.
    let mut exchange = std::pin::pin!(exchange);
    let conversation = async {
        tokio::select! {
            result = exchange.as_mut() => result,
            // It ends once the last byte is there, maybe before the answer was picked up.
            _ = connection => exchange.await,
        }
    };
    let in_time = tokio::time::timeout(ANSWER_PATIENCE, conversation).await;
    in_time.unwrap_or_else(|_| Err(CallError::Silent(ANSWER_PATIENCE.as_secs())))
}

fn check_length(path: &Path) -> Result<(), BindError> {
    let bytes = path.as_os_str().len();
    if bytes > MAX_PATH { Err(BindError::TooLong { path: path.to_owned(), bytes }) } else { Ok(()) }
}

/// The user id we run as, in the kernel's words: that of a socket's two ends which are both ours.
fn own_uid() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

/// Why the socket can't be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names say it")]
pub enum BindError {
    /// The kernel has a bound.
    #[error("admin.socket: {} is {bytes} bytes long and a unix socket's path can have {MAX_PATH}: set admin.socket to a shorter absolute path", path.display())]
    TooLong { path: PathBuf, bytes: usize },
    /// Another server has it.
    #[error("admin.socket: another nullpass answers at {}: stop it, or give this one a data folder and socket of its own", .0.display())]
    InUse(PathBuf),
    /// Something else is in the way.
    #[error("admin.socket: {} exists and is no socket: move it away, or set admin.socket to another path", .0.display())]
    NoSocket(PathBuf),
    /// The system says no.
    #[error("admin.socket: can't listen at {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names say it")]
pub enum CallError {
    /// No server listens: the store can be opened instead.
    #[error("no server is running")]
    NoServer,
    /// No server can.
    #[error(transparent)]
    Path(BindError),
    /// The system says no, such as to another user.
    #[error("can't reach the running server at {}: {source}: run this as the user that the server runs as, or as root", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The server went away, or turned us away.
    #[error("the running server broke the connection off ({0}): run this as the user that it runs as, or see its log")]
    Broke(String),
    /// It may or may not have done what was asked.
    #[error("the running server gave no answer within {0} s: see its log, and look whether it was done before trying again")]
    Silent(u64),
    /// It did not understand.
    #[error("the running server refused the command ({0}: {1}): is it of another version than this program?")]
    Refused(StatusCode, String),
    /// We did not understand.
    #[error("the running server's answer can't be read: it is of another version than this program")]
    OtherVersion,
    /// It said no, and why.
    #[error(transparent)]
    Command(#[from] CommandError),
}
