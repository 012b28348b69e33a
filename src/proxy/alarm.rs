//! A timer that is cheap to move.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// One timer for all that a connection waits for, one after the other. A wait nearly always ends long before its time
/// is up, so the timer is left where it is and moved only when it rings too early, or would ring too late.
pub(super) struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// Not set to anything yet.
    pub(super) fn new() -> Self {
        Self(Box::pin(sleep(Duration::from_hours(1))))
    }

    /// Ready once `at` has come.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.0.deadline() > at {
            self.0.as_mut().reset(at);
        }
        loop {
            ready!(self.0.as_mut().poll(cx));
            if self.0.deadline() >= at {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(at);
        }
    }
}

/// `span` after `from`; so far away that it never comes if that is beyond what can be counted.
pub(super) fn after(from: Instant, span: Duration) -> Instant {
    const FAR: Duration = Duration::from_hours(24 * 365 * 30);
    from.checked_add(span).unwrap_or(from + FAR)
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alarm")
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rings_when_it_should_whichever_way_it_is_moved() {
        let mut alarm = Alarm::new();
        let start = Instant::now();
        for seconds in [5, 6, 60, 61, 4000] {
            let at = start + Duration::from_secs(seconds);
            poll_fn(|cx| alarm.poll(cx, at)).await;
            assert_eq!(Instant::now().duration_since(start).as_secs(), seconds);
        }
        assert!(after(start, Duration::MAX) > start + Duration::from_hours(24));
        // Moved later without having rung, then earlier.
        let now = Instant::now();
        let mut polled = 0;
        poll_fn(|cx| {
            polled += 1;
            if polled == 1 {
                assert!(alarm.poll(cx, now + Duration::from_secs(10)).is_pending());
                assert!(alarm.poll(cx, now + Duration::from_secs(20)).is_pending());
            }
            alarm.poll(cx, now + Duration::from_secs(15))
        })
        .await;
        assert_eq!(now.elapsed().as_secs(), 15);
    }
}
