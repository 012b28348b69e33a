//! What a connection's clocks read, and what its hyper has left unread. One task writes nearly all of it, so relaxed
//! loads and stores do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::connection::{Connection, Settings};
use super::residue::Residue;

/// How long an HTTP/1.1 connection rests before hyper and its buffers leave it.
const REST: Duration = Duration::from_millis(250);

/// How long a connection that has just had an answer waits for a next request while the process drains: the client may
/// be writing it, and only that request's answer can say `Connection: close`.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// How often a connection with a request in flight is looked at.
const BUSY: Duration = Duration::from_secs(5);

/// The shortest sleep between two looks.
const SHORTEST: Duration = Duration::from_millis(10);

/// No length: the body is chunked.
const UNKNOWN: u64 = u64::MAX;

/// What the alarm finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing: look again then.
    Again(Instant),
    /// HTTP/1.1 at rest with nothing left unread: hyper may leave it.
    Resting,
    /// No request for `idle_timeout`.
    Idle,
    /// A head that takes longer than `header_timeout`.
    SlowHead,
    /// A client that has taken nothing of an answer for `idle_timeout`.
    Stuck,
}

/// The state of a connection's clocks. Times are milliseconds since it was accepted, plus one; 0: none.
#[derive(Debug)]
pub struct Activity {
    accepted: Instant,
    in_flight: AtomicU32,
    head_began: AtomicU64,
    idle_since: AtomicU64,
    http2: AtomicBool,
    /// Answers say `Connection: close` from now on.
    closing: AtomicBool,
    /// The socket wrapper may tell hyper that the stream has ended.
    released: AtomicBool,
    /// It has told it.
    let_go: AtomicBool,
    /// Since when the last write could not be finished.
    stuck_since: AtomicU64,
    /// The client has ended its side.
    ended: AtomicBool,
    /// A head is longer than it may be.
    large_head: AtomicBool,
    /// What comes belongs to another protocol, and has no heads.
    upgraded: AtomicBool,
    /// What the last request says of its body's length.
    body_length: AtomicU64,
    /// What hyper was given, see [`Residue`].
    beyond_head: AtomicU64,
    /// Requests that the client took back in the second that began then.
    resets: AtomicU32,
    resets_since: AtomicU64,
    flooded: Notify,
    /// Somebody else needs the place.
    asked_to_leave: AtomicBool,
    leave: Notify,
}

impl Activity {
    pub(super) fn new(accepted: Instant) -> Self {
        Self {
            accepted,
            in_flight: AtomicU32::new(0),
            head_began: AtomicU64::new(0),
            idle_since: AtomicU64::new(1),
            http2: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            released: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
            stuck_since: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            large_head: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            body_length: AtomicU64::new(0),
            beyond_head: AtomicU64::new(0),
            resets: AtomicU32::new(0),
            resets_since: AtomicU64::new(0),
            flooded: Notify::new(),
            asked_to_leave: AtomicBool::new(false),
            leave: Notify::new(),
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.accepted).as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn since(&self, at: u64, now: Instant) -> Duration {
        Duration::from_millis(self.millis(now).saturating_sub(at))
    }

    /// How long it has been since the last answer, or since it was accepted.
    pub(super) fn idle_for(&self, now: Instant) -> Duration {
        self.since(self.idle_since.load(Ordering::Relaxed), now)
    }

    /// hyper takes the connection over, `http2` or not.
    pub(super) fn taken_over(&self, http2: bool) {
        self.http2.store(http2, Ordering::Relaxed);
        self.released.store(false, Ordering::Relaxed);
        self.let_go.store(false, Ordering::Relaxed);
        self.beyond_head.store(0, Ordering::Relaxed);
        self.body_length.store(0, Ordering::Relaxed);
        if http2 {
            // Its preface was the first thing to come; from here on its streams have heads, it has none.
            self.head_began.store(0, Ordering::Relaxed);
        }
    }

    /// Bytes came.
    pub(super) fn received(&self) {
        self.released.store(false, Ordering::Relaxed);
        if self.in_flight.load(Ordering::Relaxed) == 0
            && self.head_began.load(Ordering::Relaxed) == 0
            && !self.http2.load(Ordering::Relaxed)
        {
            self.head_began.store(self.millis(Instant::now()), Ordering::Relaxed);
        }
    }

    /// Since the first byte of the head that is not complete.
    pub(super) fn head_takes(&self, now: Instant) -> Option<Duration> {
        let began = self.head_began.load(Ordering::Relaxed);
        (began != 0).then(|| self.since(began, now))
    }

    /// From the answer on that is being made, the connection speaks something else.
    pub(super) fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// Whether it does.
    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// Whether a head is under way: some of it came while no request was being answered, and it is not complete.
    pub(super) fn has_begun_a_head(&self) -> bool {
        self.head_began.load(Ordering::Relaxed) != 0
    }

    fn head_is_complete(&self, body: Option<u64>) {
        self.body_length.store(body.unwrap_or(UNKNOWN), Ordering::Relaxed);
        self.head_began.store(0, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer is through, or was given up (`whole` is false).
    pub fn answered(&self, whole: bool) {
        self.idle_since.store(self.millis(Instant::now()), Ordering::Relaxed);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !whole && self.http2.load(Ordering::Relaxed) {
            self.reset();
        }
    }

    /// A request was taken back by its client before its answer was through.
    fn reset(&self) {
        let now = Instant::now();
        if self.since(self.resets_since.load(Ordering::Relaxed), now) >= Duration::from_secs(1) {
            self.resets_since.store(self.millis(now), Ordering::Relaxed);
            self.resets.store(0, Ordering::Relaxed);
        }
        self.resets.fetch_add(1, Ordering::Relaxed);
        self.flooded.notify_one();
    }

    /// Resolves when the client has taken back more than `most` requests within a second (CVE-2023-44487).
    pub(super) async fn flooded(&self, most: u32) {
        while self.resets.load(Ordering::Relaxed) <= most {
            self.flooded.notified().await;
        }
    }

    /// Whether the connection does nothing and has not been asked to leave yet.
    pub(super) fn may_be_asked_to_leave(&self) -> bool {
        !self.busy() && !self.asked_to_leave.load(Ordering::Relaxed)
    }

    /// Its place is needed by somebody else.
    pub(super) fn ask_to_leave(&self) {
        self.asked_to_leave.store(true, Ordering::Relaxed);
        self.leave.notify_one();
    }

    /// Resolves when it was asked to leave while it did nothing.
    pub(super) async fn asked_to_leave(&self) {
        loop {
            self.leave.notified().await;
            if !self.busy() {
                return;
            }
            // Something came in the meantime: another time, perhaps.
            self.asked_to_leave.store(false, Ordering::Relaxed);
        }
    }

    /// From now on every answer is the last on its connection.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether the next answer is to be the last.
    pub(super) fn closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// hyper may leave as soon as it finds nothing to read.
    pub(super) fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
    }

    /// Whether it was told so and nothing has come since.
    pub(super) fn is_released(&self) -> bool {
        self.released.load(Ordering::Relaxed)
    }

    /// Whether hyper is to be told that the stream has ended, as nothing came instead.
    pub(super) fn lets_go(&self) -> bool {
        let released = self.released.load(Ordering::Relaxed) && self.at_rest();
        if released {
            self.let_go.store(true, Ordering::Relaxed);
        }
        released
    }

    /// Whether hyper was told so.
    pub(super) fn has_let_go(&self) -> bool {
        self.let_go.load(Ordering::Relaxed)
    }

    /// The last write could not be finished, or could.
    pub(super) fn wrote(&self, finished: bool) {
        if finished {
            self.stuck_since.store(0, Ordering::Relaxed);
        } else if !self.write_stuck() {
            self.stuck_since.store(self.millis(Instant::now()), Ordering::Relaxed);
        }
    }

    /// Whether something of ours waits to be written, so that nothing may be written past it.
    pub(super) fn write_stuck(&self) -> bool {
        self.stuck_since.load(Ordering::Relaxed) != 0
    }

    /// How long nothing could be written.
    fn stuck_for(&self, now: Instant) -> Option<Duration> {
        let since = self.stuck_since.load(Ordering::Relaxed);
        (since != 0).then(|| self.since(since, now))
    }

    /// The client has ended its side.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether it has.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// A head has as many bytes as it may have, and is not complete.
    pub(super) fn head_is_too_large(&self) {
        self.large_head.store(true, Ordering::Relaxed);
    }

    /// Whether there was such a head.
    pub(super) fn is_head_too_large(&self) -> bool {
        self.large_head.load(Ordering::Relaxed)
    }

    /// Requests that are being answered.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed) as usize
    }

    /// Whether a request is being answered.
    pub(super) fn busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    /// Whether hyper was given exactly the requests that were answered, as far as [`Residue`] can tell.
    pub(super) fn all_read(&self) -> bool {
        Residue::is_none(self.beyond_head.load(Ordering::Relaxed), self.body_length.load(Ordering::Relaxed))
    }

    /// See [`Residue`].
    pub(super) fn note_residue(&self, residue: &Residue) {
        self.beyond_head.store(residue.encoded(), Ordering::Relaxed);
    }

    /// Nothing in flight, nothing begun, nothing unread, nothing unwritten.
    fn at_rest(&self) -> bool {
        !self.busy() && self.head_began.load(Ordering::Relaxed) == 0 && self.all_read() && !self.write_stuck()
    }

    /// What is to be done about the connection now. `draining`: it should go as soon as it may.
    pub(super) fn look(&self, settings: &Settings, draining: bool, now: Instant) -> Look {
        let again = |after: Duration| Look::Again(now + after.max(SHORTEST));
        if self.busy() {
            // Then something is asked of a connection that is looked at seldom: its answer comes first.
            let soon = if draining { REST } else { BUSY };
            // A client that does not read keeps an upstream's connection from everybody else.
            let Some(stuck) = self.stuck_for(now) else { return again(soon) };
            let left = settings.idle_timeout.checked_sub(stuck).filter(|left| !left.is_zero());
            return left.map_or(Look::Stuck, |left| again(left.min(soon)));
        }
        if let Some(waited) = self.head_takes(now) {
            let left = settings.header_timeout.checked_sub(waited).filter(|left| !left.is_zero());
            return left.map_or(Look::SlowHead, again);
        }
        let idle = self.idle_for(now);
        let limit = if draining { LINGER.min(settings.idle_timeout) } else { settings.idle_timeout };
        if idle >= limit {
            return if self.at_rest() && !self.http2.load(Ordering::Relaxed) { Look::Resting } else { Look::Idle };
        }
        let left = limit.saturating_sub(idle);
        if !self.http2.load(Ordering::Relaxed) && !draining && self.at_rest() {
            return match REST.checked_sub(idle).filter(|left| !left.is_zero()) {
                Some(rest) => again(rest.min(left)),
                None => Look::Resting,
            };
        }
        // A head may begin at any time, so never sleep longer than a head may take.
        again(left.min(settings.header_timeout))
    }
}

/// Keeps a connection from seeming idle while one of its HTTP/2 streams is a `WebSocket`, whose answer is through.
#[derive(Debug)]
pub(super) struct Busy(Arc<Connection>);

impl Busy {
    pub(super) fn on(connection: &Arc<Connection>) -> Self {
        connection.activity.head_is_complete(Some(0));
        Self(Arc::clone(connection))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.activity.answered(true);
    }
}

/// A request that is being answered: counted until [`InFlight::hand_over`] leaves that to the answer's end.
#[derive(Debug)]
pub(super) struct InFlight {
    connection: Arc<Connection>,
    handed_over: bool,
}

impl InFlight {
    /// A request begins; `body`: the length of its body, `None` when only its end will tell.
    pub(super) fn begin(connection: &Arc<Connection>, body: Option<u64>) -> Self {
        connection.activity.head_is_complete(body);
        Self { connection: Arc::clone(connection), handed_over: false }
    }

    pub(super) const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The answer's body calls [`Activity::answered`].
    pub(super) fn hand_over(mut self) {
        self.handed_over = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.handed_over {
            self.connection.activity.answered(false);
        }
    }
}
