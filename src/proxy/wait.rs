//! How long a request waits for the head of its answer, and for what.

use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::alarm::{Alarm, after};
use super::attempt::Failure;
use super::stream::Traffic;
use super::upload::Progress;
use super::{Ended, Error};

/// How often a request asks whether its session has ended.
const CUT_OFF_TICK: Duration = Duration::from_secs(1);

/// What a request waits for and how long.
pub(super) struct Wait<'a> {
    pub(super) progress: Option<&'a Progress>,
    /// From the request's last byte to the answer's head.
    pub(super) answer: Duration,
    /// While the body is sent: without a byte either way.
    pub(super) silence: Duration,
    pub(super) ended: Option<&'a Ended>,
    /// What to upgrade to.
    pub(super) upgrade: Option<&'a HeaderValue>,
}

/// How long a request has waited.
#[derive(Default)]
pub(super) struct Stopwatch {
    /// When the request was complete.
    sent: Option<Instant>,
    /// While it is not: since when nothing was carried, and how much had been then.
    silent: Option<(Instant, u64)>,
    next_look: Option<Instant>,
}

impl Stopwatch {
    /// Ready with why not to wait longer.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        traffic: &Traffic,
        alarm: &mut Alarm,
        sending: bool,
        wait: &Wait<'_>,
    ) -> Poll<Failure> {
        loop {
            let (since, give_up) = if sending {
                let carried = traffic.total();
                let since = match self.silent {
                    Some((since, before)) if before == carried => since,
                    Some(_) | None => {
                        let now = Instant::now();
                        self.silent = Some((now, carried));
                        now
                    }
                };
                (since, after(since, wait.silence))
            } else {
                let sent = *self.sent.get_or_insert_with(Instant::now);
                (sent, after(sent, wait.answer))
            };
            let look = wait.ended.map(|ended| (ended, *self.next_look.get_or_insert_with(|| after(since, CUT_OFF_TICK))));
            let at = look.map_or(give_up, |(_, look_at)| look_at.min(give_up));
            if alarm.poll(cx, at).is_pending() {
                return Poll::Pending;
            }
            if look.is_some_and(|(ended, _)| ended()) {
                return Poll::Ready(Failure::Final(Error::SessionEnded));
            }
            let now = Instant::now();
            if now >= give_up {
                return Poll::Ready(if sending { Failure::Stalled } else { Failure::Final(Error::TooSlow) });
            }
            self.next_look = Some(after(now, CUT_OFF_TICK));
        }
    }
}
