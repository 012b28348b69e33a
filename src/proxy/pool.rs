//! One worker's connections to one upstream.
//!
//! A connection is driven by the task that uses it, not by one of its own: no channel wakes another task for each
//! request, and when a client goes away its upstream connection goes with it. An idle one is driven by nobody; that it
//! was closed meanwhile shows when it is used next, before a byte of the request is written.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Context;
use std::time::Duration;

use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Error;
use super::alarm::Alarm;
use super::stream::{Stream, Traffic};
use super::upload::Upload;
use super::upstream::{Permit, Upstream};
use crate::tasks::Tasks;

/// How often idle connections are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Ticks after which an idle connection is closed, so that it is idle for at most four seconds: Node closes after five
/// and many others keep longer, and a request sent while the other side closes is lost.
const IDLE_TICKS: u64 = 4;

/// A connection to an upstream.
pub(super) struct Link {
    pub(super) sender: SendRequest<Upload>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) alarm: Alarm,
    connection: Connection<TokioIo<Stream>, Upload>,
    finished: bool,
    permit: Permit,
}

impl Link {
    /// Begins to speak HTTP/1.1 on `stream`.
    pub(super) async fn new(stream: Stream, permit: Permit) -> Result<Box<Self>, Error> {
        let traffic = stream.traffic();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| Error::Unreachable)?;
        Ok(Box::new(Self { sender, traffic, alarm: Alarm::new(), connection, finished: false, permit }))
    }

    /// Lets the connection read and write as far as it can. `false`: it has ended.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.finished {
            self.finished = self.connection.poll_without_shutdown(cx).is_ready();
        }
        !self.finished
    }

    /// Whether another request can be sent: the last one and its answer ended cleanly.
    pub(super) fn is_idle(&self) -> bool {
        !self.finished && self.sender.is_ready()
    }

    /// The stream and what was read too far, after an upgrade.
    pub(super) fn into_upgraded(self) -> (Stream, bytes::Bytes, Permit) {
        let parts = self.connection.into_parts();
        let mut stream = parts.io.into_inner();
        stream.show_write_errors();
        (stream, parts.read_buf, self.permit)
    }

    /// Closes the connection but keeps the right to have one.
    fn into_permit(self) -> Permit {
        self.permit
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("traffic", &self.traffic).field("finished", &self.finished).finish_non_exhaustive()
    }
}

/// The connections that wait for requests and the requests that wait for connections.
pub(super) struct Pool {
    pub(super) upstream: Arc<Upstream>,
    tasks: Tasks,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Last in, first out: the fewest connections stay in use, and those are the least likely to be closed.
    idle: Vec<Idle>,
    waiting: VecDeque<oneshot::Sender<Box<Link>>>,
    tick: u64,
    sweeping: bool,
}

struct Idle {
    link: Box<Link>,
    since: u64,
}

/// What ended a wait.
enum Turn {
    Link(Box<Link>),
    Permit(Permit),
}

impl Pool {
    pub(super) fn new(upstream: &Arc<Upstream>, tasks: &Tasks) -> Arc<Self> {
        let pool = Arc::new(Self { upstream: Arc::clone(upstream), tasks: tasks.clone(), state: Mutex::default() });
        upstream.join(Arc::downgrade(&pool));
        pool
    }

    /// A connection, and whether it was used before. With `fresh` it never was.
    ///
    /// # Errors
    ///
    /// [`Error::Saturated`], or as [`super::connect::Dialer::dial`].
    pub(super) async fn acquire(&self, fresh: bool) -> Result<(Box<Link>, bool), Error> {
        if !fresh && let Some(idle) = self.state().idle.pop() {
            return Ok((idle.link, true));
        }
        // In boxes: making a connection and waiting for one are rare, and large for something that every client's
        // connection keeps room for.
        let permit = match self.upstream.permit_now() {
            Some(permit) => permit,
            None => match Box::pin(self.wait()).await? {
                Turn::Permit(permit) => permit,
                Turn::Link(link) if fresh => link.into_permit(),
                Turn::Link(link) => return Ok((link, true)),
            },
        };
        let stream = Box::pin(self.upstream.dialer.dial()).await?;
        Box::pin(Link::new(stream, permit)).await.map(|link| (link, false))
    }

    /// Takes a connection back whose answer ended cleanly.
    pub(super) fn put(self: &Arc<Self>, mut link: Box<Link>) {
        let mut state = self.state();
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.send(link) {
                Ok(()) => return,
                // It has given up.
                Err(back) => link = back,
            }
        }
        // Another worker's request may need the room more than we need a spare.
        if self.upstream.has_queue() || self.tasks.stopping() {
            return;
        }
        let since = state.tick;
        state.idle.push(Idle { link, since });
        if !state.sweeping {
            state.sweeping = true;
            drop(self.tasks.spawn(sweep(Arc::downgrade(self), self.tasks.clone())));
        }
    }

    /// Closes the connection that was idle for longest; `false`: there is none.
    pub(super) fn close_one(&self) -> bool {
        let oldest = {
            let mut state = self.state();
            if state.idle.is_empty() { None } else { Some(state.idle.remove(0)) }
        };
        oldest.is_some()
    }

    async fn wait(&self) -> Result<Turn, Error> {
        let saturated = || {
            self.upstream.counters.saturated.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Error::Saturated
        };
        let _place = self.upstream.queue().ok_or_else(saturated)?;
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.state();
            while state.waiting.front().is_some_and(oneshot::Sender::is_closed) {
                state.waiting.pop_front();
            }
            state.waiting.push_back(sender);
        }
        // Only now, when every worker sees that somebody waits: none puts one away unseen between.
        self.upstream.close_an_idle_one();
        let turn = async {
            tokio::select! {
                biased;
                Ok(link) = receiver => Ok(Turn::Link(link)),
                permit = self.upstream.permit() => permit.map(Turn::Permit),
            }
        };
        timeout(self.upstream.connect_timeout, turn).await.unwrap_or_else(|_elapsed| Err(saturated()))
    }

    /// One tick later; `false`: nothing is idle any more.
    fn sweep(&self) -> bool {
        let (old, more) = {
            let mut state = self.state();
            state.tick += 1;
            let tick = state.tick;
            let stopping = self.tasks.stopping();
            let old: Vec<Idle> = state.idle.extract_if(.., |idle| stopping || tick - idle.since >= IDLE_TICKS).collect();
            state.sweeping = !state.idle.is_empty();
            (old, state.sweeping)
        };
        drop(old);
        more
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn sweep(pool: Weak<Pool>, tasks: Tasks) {
    loop {
        tokio::select! {
            () = sleep(TICK) => {}
            () = tasks.stopped() => {}
        }
        let Some(pool) = pool.upgrade() else { return };
        if !pool.sweep() {
            return;
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("upstream", &self.upstream.name).finish_non_exhaustive()
    }
}
