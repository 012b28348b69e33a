//! A connection that waits: for its first byte, or for a next request. hyper with its buffers (some 30 KiB) is not there;
//! what is kept is the socket, a timer and the few bytes that show which protocol comes.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::activity::LINGER;
use super::session::{Protocol, Shared};
use super::watched::{Held, PREFACE};
use crate::telemetry::metrics::Limit;

/// How long a connection that has rested for longer than [`LINGER`] is listened to when the process drains: what is in the
/// kernel already is served. Who asks more often than that is waited for, and told by the answer.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// How long saying goodbye may take, which for TLS is a message.
pub(super) const GOODBYE: Duration = Duration::from_millis(100);

/// What came of waiting.
pub(super) enum Waited {
    /// Something that is to be read as this.
    Speak(Protocol),
    /// The beginning of something, and then nothing for too long.
    SlowHead,
    /// Nothing, or the end.
    Gone,
}

/// Waits for bytes; `agreed`: what they will be, if that is known.
pub(super) async fn wait<S: AsyncRead + AsyncWrite + Unpin>(held: &mut Held<S>, agreed: Option<Protocol>, shared: &Shared) -> Waited {
    let (activity, settings) = (&shared.connection.activity, &shared.settings);
    let resting = activity.has_let_go().then(|| Resting::new(&settings.metrics.resting));
    let (limit, patience) = match resting {
        Some(_) => (Limit::IdleTimeout, settings.idle_timeout.saturating_sub(activity.idle_for(Instant::now()))),
        // A client that connects and stays silent is as slow as one that sends slowly.
        None => (Limit::HeaderTimeout, settings.header_timeout.min(settings.idle_timeout)),
    };
    let mut alarm = pin!(sleep(patience));
    let mut stopped = pin!(shared.tasks.stopped());
    let mut leave = pin!(activity.asked_to_leave());
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            read = poll_fn(|cx| held.poll_ahead(cx)) => {
                if !matches!(read, Ok(1..)) {
                    return Waited::Gone;
                }
                activity.received();
                if let Some(protocol) = agreed.or_else(|| protocol(held.ahead())) {
                    return Waited::Speak(protocol);
                }
                let taken = activity.head_takes(Instant::now()).unwrap_or_default();
                alarm.as_mut().reset(Instant::now() + settings.header_timeout.saturating_sub(taken));
            }
            () = stopped.as_mut(), if !draining => {
                draining = true;
                if held.ahead().is_empty() {
                    let now = Instant::now();
                    alarm.as_mut().reset(now + if activity.idle_for(now) < LINGER { LINGER } else { LAST_LOOK });
                }
            }
            () = leave.as_mut() => {
                settings.metrics.limited(Limit::Room);
                let _said_or_not = timeout(GOODBYE, held.stream.shutdown()).await;
                return Waited::Gone;
            }
            () = alarm.as_mut() => {
                if !held.ahead().is_empty() {
                    return Waited::SlowHead;
                }
                if !draining {
                    settings.metrics.limited(limit);
                }
                let _said_or_not = timeout(GOODBYE, held.stream.shutdown()).await;
                return Waited::Gone;
            }
        }
    }
}

/// Which protocol begins like this; `None`: it can't be told yet.
fn protocol(bytes: &[u8]) -> Option<Protocol> {
    match PREFACE.strip_prefix(bytes) {
        Some([]) => Some(Protocol::Http2),
        Some(_) => None,
        None => Some(Protocol::Http1),
    }
}

/// Counts a connection that rests.
struct Resting<'a>(&'a Gauge);

impl<'a> Resting<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_tells_the_protocols_apart() {
        assert_eq!(protocol(&PREFACE), Some(Protocol::Http2));
        for length in 0..PREFACE.len() {
            assert_eq!(protocol(&PREFACE[..length]), None);
        }
        for other in ["G", "PO", "PRI * HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", "\r\n"] {
            assert_eq!(protocol(other.as_bytes()), Some(Protocol::Http1), "{other}");
        }
    }
}
