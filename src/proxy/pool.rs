//! One worker's connections to one upstream.
//!
//! A connection is driven by the task that uses it, not by one of its own: no channel wakes another task for each
//! request, and when a client goes away its upstream connection goes with it. An idle one is driven by nobody; that it
//! was closed meanwhile shows when it is used next, before a byte of the request is written.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Error;
use super::alarm::Alarm;
use super::choice::Dice;
use super::connect::{Dialed, Purpose};
use super::endpoint::{Chosen, Endpoint};
use super::http1::Http1;
use super::http2::{Awaited, Sessions, Slot};
use super::resolve::Origin;
use super::stream::{Stream, Traffic};
use super::upload::Upload;
use super::upstream::{Permit, Upstream};
use crate::tasks::Tasks;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How often idle connections are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Ticks after which an idle connection is closed, so that it is idle for at most four seconds: Node closes after five
/// and many others keep longer, and a request sent while the other side closes is lost.
const IDLE_TICKS: u64 = 4;

/// The most ticks that an upstream can have its connections kept for by saying so (`Keep-Alive: timeout`).
const MOST_IDLE_TICKS: u64 = 60;

/// A connection to an endpoint.
pub(super) struct Link {
    pub(super) http: Http1<Stream, Upload>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) alarm: Alarm,
    permit: Permit,
    endpoint: Arc<Endpoint>,
    origin: Option<Origin>,
    /// How long it may be idle.
    idle_ticks: u64,
}

impl Link {
    /// Begins to speak HTTP/1.1 on a new connection to `endpoint`.
    fn new(dialed: Dialed, permit: Permit, endpoint: &Arc<Endpoint>) -> Box<Self> {
        let Dialed { stream, origin, .. } = dialed;
        Box::new(Self {
            traffic: stream.traffic(),
            http: Http1::new(stream),
            alarm: Alarm::new(),
            permit,
            endpoint: Arc::clone(endpoint),
            origin,
            idle_ticks: IDLE_TICKS,
        })
    }

    /// The stream and what was read too far, after an upgrade.
    pub(super) fn into_upgraded(self) -> (Stream, bytes::Bytes, Permit) {
        let (stream, read_too_far) = self.http.into_upgraded();
        (stream, read_too_far, self.permit)
    }

    /// Heeds how long the upstream says it keeps an idle connection (`Keep-Alive: timeout=5`, RFC 2068, section
    /// 19.7.1.1): ours is closed at least a second before.
    pub(super) fn heed_keep_alive(&mut self, headers: &HeaderMap) {
        if let Some(value) = headers.get(KEEP_ALIVE)
            && let Some(seconds) = keep_alive(value)
        {
            self.idle_ticks = seconds.saturating_sub(1).min(MOST_IDLE_TICKS);
        }
    }

    /// Whether it still leads to where its endpoint is.
    fn leads_there(&self) -> bool {
        self.endpoint.dialer.leads_there(self.origin.as_ref())
    }

    /// Closes the connection but keeps the right to have one.
    fn into_permit(self) -> Permit {
        self.permit
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("traffic", &self.traffic).field("http", &self.http).finish_non_exhaustive()
    }
}

/// The connections that wait for requests and the requests that wait for connections.
pub(super) struct Pool {
    pub(super) upstream: Arc<Upstream>,
    pub(super) dice: Dice,
    pub(super) tasks: Tasks,
    state: Mutex<State>,
    /// For each endpoint.
    http2: Vec<Sessions>,
}

#[derive(Default)]
struct State {
    /// For each endpoint. Last in, first out: the fewest connections stay in use, and those are the least likely to be
    /// closed.
    idle: Vec<Vec<Idle>>,
    waiting: VecDeque<oneshot::Sender<Box<Link>>>,
    tick: u64,
    sweeping: bool,
}

struct Idle {
    link: Box<Link>,
    since: u64,
}

/// A way to an endpoint.
pub(super) enum Way {
    /// A connection for one request, and whether it was used before.
    Http1(Box<Link>, bool),
    /// A stream's place on a connection that is shared.
    Http2(Slot),
}

/// What ended a wait.
enum Turn {
    Link(Box<Link>),
    Permit(Permit),
}

impl Pool {
    pub(super) fn new(upstream: &Arc<Upstream>, tasks: &Tasks) -> Arc<Self> {
        let idle = upstream.endpoints.iter().map(|_| Vec::new()).collect();
        let state = Mutex::new(State { idle, ..State::default() });
        let http2 = upstream.endpoints.iter().map(Sessions::new).collect();
        let pool = Arc::new(Self { upstream: Arc::clone(upstream), tasks: tasks.clone(), state, dice: Dice::new(), http2 });
        upstream.join(Arc::downgrade(&pool));
        pool
    }

    /// A way to the chosen endpoint. With `fresh` it was never used. After waiting for room it may lead to another endpoint
    /// than was chosen, which `chosen` then says; never to `avoid`, though.
    ///
    /// # Errors
    ///
    /// [`Error::Saturated`], or as [`super::connect::Dialer::dial`].
    pub(super) async fn acquire(&self, chosen: &mut Chosen, avoid: Option<usize>, fresh: bool, purpose: Purpose) -> Result<Way, Error> {
        let place = chosen.endpoint().place;
        if let Some(sessions) = self.http2.get(place)
            && sessions.are_for(purpose)
        {
            if let Some(slot) = sessions.lease() {
                return Ok(Way::Http2(slot));
            }
            // In boxes: making a connection and waiting for one are rare, and large for something that every client's
            // connection keeps room for.
            if let Some(way) = Box::pin(self.open_shared(chosen.endpoint(), sessions, purpose)).await? {
                return Ok(way);
            }
        }
        if !fresh && let Some(link) = self.take(place) {
            return Ok(Way::Http1(link, true));
        }
        let permit = match self.upstream.permit_now() {
            Some(permit) => permit,
            None => match Box::pin(self.wait()).await? {
                Turn::Permit(permit) => permit,
                Turn::Link(link) if fresh || Some(link.endpoint.place) == avoid || link.endpoint.share() == 0 => link.into_permit(),
                Turn::Link(link) => {
                    *chosen = Chosen::new(&link.endpoint);
                    return Ok(Way::Http1(link, true));
                }
            },
        };
        Box::pin(self.dial(chosen.endpoint(), permit, purpose)).await
    }

    /// A place on a new connection that others will share. A burst of requests opens one connection, not one each; `None`:
    /// it has turned out meanwhile that the endpoint speaks HTTP/1.1.
    async fn open_shared(&self, endpoint: &Arc<Endpoint>, sessions: &Sessions, purpose: Purpose) -> Result<Option<Way>, Error> {
        let limit = self.upstream.connect_timeout;
        let _opening = match sessions.turn(sessions.opening.lock(), limit).await {
            Awaited::Slot(slot) => return Ok(Some(Way::Http2(slot))),
            Awaited::Turn(opening) => opening,
            Awaited::Nothing if self.upstream.is_full() => return Err(self.saturated()),
            Awaited::Nothing => return Err(Error::TooSlow),
        };
        if !sessions.are_for(purpose) {
            return Ok(None);
        }
        if let Some(slot) = sessions.lease() {
            return Ok(Some(Way::Http2(slot)));
        }
        let permit = match self.upstream.permit_now() {
            Some(permit) => permit,
            None => {
                let _place = self.upstream.queue().ok_or_else(|| self.saturated())?;
                self.upstream.close_an_idle_one();
                match sessions.turn(self.upstream.permit(), limit).await {
                    Awaited::Slot(slot) => return Ok(Some(Way::Http2(slot))),
                    Awaited::Turn(permit) => permit?,
                    Awaited::Nothing => return Err(self.saturated()),
                }
            }
        };
        self.dial(endpoint, permit, purpose).await.map(Some)
    }

    async fn dial(&self, endpoint: &Arc<Endpoint>, permit: Permit, purpose: Purpose) -> Result<Way, Error> {
        let dialed = endpoint.dialer.dial(purpose).await?;
        if let Some(sessions) = self.http2.get(endpoint.place) {
            if purpose == Purpose::Requests {
                sessions.learn(dialed.is_http2);
            }
            if dialed.is_http2 {
                return sessions.adopt(dialed, permit, self.upstream.connect_timeout, &self.tasks).await.map(Way::Http2);
            }
        }
        Ok(Way::Http1(Link::new(dialed, permit, endpoint), false))
    }

    fn saturated(&self) -> Error {
        self.upstream.counters.saturated.fetch_add(1, Ordering::Relaxed);
        Error::Saturated
    }

    /// Takes a connection back whose answer has ended; one that was not left clean is closed.
    pub(super) fn put(self: &Arc<Self>, mut link: Box<Link>) {
        if !link.http.is_idle() || link.idle_ticks == 0 || !link.leads_there() {
            return;
        }
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
        let Some(idle) = state.idle.get_mut(link.endpoint.place) else { return };
        idle.push(Idle { link, since });
        if !state.sweeping {
            state.sweeping = true;
            drop(self.tasks.spawn(sweep(Arc::downgrade(self), self.tasks.clone())));
        }
    }

    /// Closes the connection that was idle for longest; `false`: there is none.
    pub(super) fn close_one(&self) -> bool {
        let oldest = {
            let mut state = self.state();
            let oldest = state.idle.iter_mut().filter(|idle| !idle.is_empty()).min_by_key(|idle| idle.first().map(|idle| idle.since));
            oldest.map(|idle| idle.remove(0))
        };
        oldest.is_some() || self.http2.iter().any(Sessions::close_one)
    }

    /// An idle connection to an endpoint.
    fn take(&self, place: usize) -> Option<Box<Link>> {
        let mut state = self.state();
        let idle = state.idle.get_mut(place)?;
        while let Some(Idle { link, .. }) = idle.pop() {
            if link.leads_there() {
                return Some(link);
            }
        }
        None
    }

    async fn wait(&self) -> Result<Turn, Error> {
        let _place = self.upstream.queue().ok_or_else(|| self.saturated())?;
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
        timeout(self.upstream.connect_timeout, turn).await.unwrap_or_else(|_elapsed| Err(self.saturated()))
    }

    /// One tick later; `false`: nothing is idle any more.
    fn sweep(&self) -> bool {
        let (old, more) = {
            let mut state = self.state();
            state.tick += 1;
            let tick = state.tick;
            let stopping = self.tasks.stopping();
            let is_old = |idle: &mut Idle| stopping || tick - idle.since >= idle.link.idle_ticks || !idle.link.leads_there();
            let old: Vec<Idle> = state.idle.iter_mut().flat_map(|idle| idle.extract_if(.., is_old)).collect();
            state.sweeping = state.idle.iter().any(|idle| !idle.is_empty());
            (old, state.sweeping)
        };
        drop(old);
        more
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The `timeout` of a `Keep-Alive` field, in seconds.
fn keep_alive(value: &HeaderValue) -> Option<u64> {
    let parameters = value.to_str().ok()?.split(',');
    parameters.filter_map(|parameter| parameter.trim().split_once('=')).find_map(|(name, value)| {
        if name.trim_end().eq_ignore_ascii_case("timeout") { value.trim().trim_matches('"').parse().ok() } else { None }
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_says_how_long() {
        for (text, expected) in [
            ("timeout=5", Some(5)),
            ("max=100, Timeout = \"7\"", Some(7)),
            ("timeout=0", Some(0)),
            ("max=100", None),
            ("timeout", None),
            ("timeout=-1", None),
            ("timeout=99999999999999999999999", None),
        ] {
            assert_eq!(keep_alive(&HeaderValue::from_static(text)), expected, "{text}");
        }
    }
}
