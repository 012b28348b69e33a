//! HTTP/2 towards upstreams (RFC 9113): by ALPN over TLS, by prior knowledge without.
//!
//! A worker's requests share connections, each its own stream. A connection has a task of its own ([`session`]), since
//! no single request may be the one that drives it; everything else of a request is driven by the task that serves the
//! client, as with HTTP/1.1: its body ([`pump`]), the wait for the answer ([`exchange`]) and the answer's body
//! ([`download`]). [`tunnel`] carries a `WebSocket` (RFC 8441).

mod download;
mod exchange;
mod head;
mod pump;
mod session;
mod tunnel;

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

pub(super) use download::Http2Download;
pub(super) use exchange::{Exchange, get, send};
pub(super) use head::Scheme;
pub(super) use session::Slot;
pub(super) use tunnel::{Opened, Tunnel, open};

use super::Error;
use super::connect::{Dialed, Purpose};
use super::endpoint::Endpoint;
use super::upstream::Permit;
use crate::tasks::Tasks;
use session::Session;

/// A worker's connections to one endpoint.
pub(super) struct Sessions {
    endpoint: Arc<Endpoint>,
    list: Mutex<Vec<Arc<Session>>>,
    /// Told whenever a stream or a connection has ended.
    freed: Arc<Notify>,
    /// Held by whoever opens a connection: a burst of requests shares what one of them opens.
    pub(super) opening: tokio::sync::Mutex<()>,
    /// What ALPN has settled last: whether it was HTTP/1.1.
    is_http1: AtomicBool,
}

/// What came of waiting.
pub(super) enum Awaited<T> {
    /// A place on a connection, before what was waited for.
    Slot(Slot),
    /// What was waited for.
    Turn(T),
    /// It took too long.
    Nothing,
}

impl Sessions {
    pub(super) fn new(endpoint: &Arc<Endpoint>) -> Self {
        Self {
            endpoint: Arc::clone(endpoint),
            list: Mutex::default(),
            freed: Arc::default(),
            opening: tokio::sync::Mutex::default(),
            is_http1: AtomicBool::new(false),
        }
    }

    /// Whether HTTP/2 is what the endpoint speaks, or may be.
    pub(super) fn are_for(&self, purpose: Purpose) -> bool {
        let dialer = &self.endpoint.dialer;
        dialer.is_h2c() || (dialer.asks() && purpose == Purpose::Requests && !self.is_http1.load(Ordering::Relaxed))
    }

    /// Notes what a new connection speaks: another program may listen there tomorrow.
    pub(super) fn learn(&self, is_http2: bool) {
        self.is_http1.store(!is_http2, Ordering::Relaxed);
    }

    /// Room for a stream on a connection that is open. The earliest connection is filled first, so that those which are
    /// not needed any more fall idle and are closed.
    pub(super) fn lease(&self) -> Option<Slot> {
        let mut list = self.list();
        list.retain(|session| session.is_open());
        for session in list.iter() {
            if !self.endpoint.dialer.leads_there(session.origin.as_ref()) {
                session.retire();
            } else if let Some(slot) = session.lease() {
                return Some(slot);
            }
        }
        None
    }

    /// Begins to speak HTTP/2 on a new connection: room for a first stream on it.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] if the other side does not speak HTTP/2, [`Error::TooSlow`] if it says nothing for `limit`.
    pub(super) async fn adopt(&self, dialed: Dialed, permit: Permit, limit: Duration, tasks: &Tasks) -> Result<Slot, Error> {
        let session = session::establish(dialed, permit, Arc::clone(&self.freed), limit, tasks).await?;
        let slot = session.lease().ok_or(Error::Unreachable)?;
        self.list().push(session);
        // Others who wait may use it as well.
        self.freed.notify_waiters();
        Ok(slot)
    }

    /// Waits for `turn` or for room on a connection that is open, whichever comes first, for at most `limit`.
    pub(super) async fn turn<T>(&self, turn: impl Future<Output = T>, limit: Duration) -> Awaited<T> {
        let waited = async {
            let mut turn = pin!(turn);
            loop {
                // Before one looks, or what is freed in between would not be noticed.
                let freed = self.freed.notified();
                if let Some(slot) = self.lease() {
                    return Awaited::Slot(slot);
                }
                tokio::select! {
                    biased;
                    turn = turn.as_mut() => return Awaited::Turn(turn),
                    () = freed => {}
                }
            }
        };
        timeout(limit, waited).await.unwrap_or(Awaited::Nothing)
    }

    /// Closes a connection without streams; `false`: there is none.
    pub(super) fn close_one(&self) -> bool {
        self.list().iter().any(|session| session.close_if_idle())
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sessions {
    /// Streams that are open end as they would, and then their connections.
    fn drop(&mut self) {
        for session in self.list().drain(..) {
            session.retire();
        }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list().iter()).finish()
    }
}
