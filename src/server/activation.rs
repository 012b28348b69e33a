//! The service manager: sockets that it has opened for us (`LISTEN_FDS`, `sd_listen_fds(3)`), and what we tell it
//! (`NOTIFY_SOCKET`, `sd_notify(3)`).
//!
//! A socket that somebody else holds open outlives the process: while it is stopped and started again, connections wait in
//! the kernel's queue.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use listenfd::ListenFd;

/// Sockets that were inherited and not taken yet.
#[derive(Debug, Default)]
pub struct Inherited {
    tcp: Vec<std::net::TcpListener>,
    unix: Vec<std::os::unix::net::UnixListener>,
}

impl Inherited {
    /// None.
    pub fn none() -> Self {
        Self::default()
    }

    /// Those that `LISTEN_FDS` counts, if `LISTEN_PID` says that they are for this process. Both are removed from the
    /// environment, so that no child takes them for its own. To be called once, before there are threads.
    #[expect(clippy::disallowed_methods, reason = "how the service manager speaks to us, and no configuration")]
    pub fn from_environment() -> Self {
        let ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        if !ours {
            return Self::none();
        }
        let mut given = ListenFd::from_env();
        let mut inherited = Self::none();
        for index in 0..given.len() {
            // What does not fit is left in its place by the first, so that the second can look at it.
            if let Ok(Some(listener)) = given.take_tcp_listener(index) {
                inherited.tcp.push(listener);
            } else if let Ok(Some(listener)) = given.take_unix_listener(index) {
                inherited.unix.push(listener);
            } else {
                tracing::warn!(index, "an inherited socket is neither a TCP nor a unix stream socket: it is left alone");
            }
        }
        inherited
    }

    /// The socket that listens on this address.
    pub fn take_tcp(&mut self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let place = self.tcp.iter().position(|listener| listener.local_addr().is_ok_and(|bound| bound == address))?;
        Some(self.tcp.swap_remove(place))
    }

    /// The socket that listens on this path.
    pub fn take_unix(&mut self, path: &Path) -> Option<std::os::unix::net::UnixListener> {
        let place = self.unix.iter().position(|listener| {
            let bound = listener.local_addr();
            bound.is_ok_and(|bound| bound.as_pathname() == Some(path))
        })?;
        Some(self.unix.swap_remove(place))
    }

    /// Says which ones nobody wanted: their clients would wait for ever.
    pub fn warn_of_others(self) {
        for listener in &self.tcp {
            let address = listener.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string());
            tracing::warn!(address, "an inherited socket is not in server.listen: it is closed");
        }
        for listener in &self.unix {
            tracing::warn!(address = ?listener.local_addr().ok(), "an inherited socket is not in server.listen: it is closed");
        }
    }
}

/// What the service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It answers.
    Ready,
    /// It reads its configuration again; [`State::Ready`] or [`State::Refused`] follows.
    Reloading,
    /// It answers as before, by the configuration from before.
    Refused,
    /// It drains.
    Stopping,
}

impl State {
    fn message(self) -> Cow<'static, str> {
        match self {
            Self::Ready => "READY=1\nSTATUS=answering".into(),
            Self::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reading the configuration again", monotonic_micros()).into(),
            Self::Refused => "READY=1\nSTATUS=answering; the changed configuration was refused, see the log".into(),
            Self::Stopping => "STOPPING=1\nSTATUS=draining".into(),
        }
    }
}

/// Tells the service manager, if there is one that wants to know. A failure is logged: nothing depends on it here.
pub fn notify(state: State) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(Path::new(&socket), &state.message())
    {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// `CLOCK_MONOTONIC` in microseconds, by which the manager tells this reload from one that it asked for later.
fn monotonic_micros() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000)
}

fn send(socket: &Path, message: &str) -> std::io::Result<()> {
    use std::os::unix::net::SocketAddr;
    let address = match socket.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_their_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut inherited = Inherited { tcp: vec![tcp], unix: vec![unix] };
        assert!(inherited.take_tcp(SocketAddr::from(([127, 0, 0, 2], address.port()))).is_none());
        assert!(inherited.take_unix(&folder.path().join("other.sock")).is_none());
        assert!(inherited.take_tcp(address).is_some());
        assert!(inherited.take_tcp(address).is_none(), "it is taken once");
        assert!(inherited.take_unix(&path).is_some());
    }

    #[test]
    fn the_manager_is_told_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut bytes = [0; 256];
        send(&path, &State::Ready.message()).unwrap();
        let count = manager.recv(&mut bytes).unwrap();
        assert!(bytes[..count].starts_with(b"READY=1\n"));
        let before = monotonic_micros();
        send(&path, &State::Reloading.message()).unwrap();
        let count = manager.recv(&mut bytes).unwrap();
        let told = String::from_utf8_lossy(&bytes[..count]).into_owned();
        let at: i64 = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().split('\n').next().unwrap().parse().unwrap();
        assert!(before > 0 && (before..=monotonic_micros()).contains(&at));
        let name = format!("nullpass-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        send(Path::new(&format!("@{name}")), &State::Stopping.message()).unwrap();
        let count = manager.recv(&mut bytes).unwrap();
        assert!(bytes[..count].starts_with(b"STOPPING=1\n"));
        drop(manager);
        assert!(send(&folder.path().join("nobody"), "x").is_err());
    }
}
