//! When an answer's body has to be cut off.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::Ended;
use super::alarm::{Alarm, after};
use super::stream::Traffic;
use crate::wire::body::BodyError;

/// How often a stream that is silent asks whether its session has ended.
const TICK: Duration = Duration::from_secs(1);

/// Watches a stream: it ends with its session, or when nothing was carried for too long.
pub(super) struct Cut {
    ended: Option<Ended>,
    idle: Duration,
    /// Since when nothing was carried, and how much had been then.
    silent: Option<(Instant, u64)>,
    next_look: Option<Instant>,
}

impl Cut {
    pub(super) fn new(ended: Option<Ended>, idle: Duration) -> Self {
        Self { ended, idle, silent: None, next_look: None }
    }

    /// Whether the session has ended. A stream that always has something ready never gets to wait for the alarm.
    pub(super) fn is_due(&self) -> bool {
        self.ended.as_ref().is_some_and(|ended| ended())
    }

    /// Ready with what to cut the body off for.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, alarm: &mut Alarm, traffic: &Traffic) -> Poll<BodyError> {
        loop {
            let carried = traffic.total();
            let since = match self.silent {
                Some((since, before)) if before == carried => since,
                Some(_) | None => {
                    let now = Instant::now();
                    self.silent = Some((now, carried));
                    now
                }
            };
            let idle_at = after(since, self.idle);
            let look_at = self.ended.as_ref().map(|_| *self.next_look.get_or_insert_with(|| Instant::now() + TICK));
            if alarm.poll(cx, look_at.map_or(idle_at, |look_at| look_at.min(idle_at))).is_pending() {
                return Poll::Pending;
            }
            if self.is_due() {
                return Poll::Ready(BodyError::Ended);
            }
            if Instant::now() >= idle_at {
                return Poll::Ready(BodyError::Idle);
            }
            self.next_look = None;
        }
    }
}
