//! One request on a stream of its own: sending, and waiting for the head of its answer.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::header::HOST;
use http::{HeaderValue, Method, Response, StatusCode, Uri, request};
use tokio::task::JoinHandle;

use super::super::Error;
use super::super::alarm::Alarm;
use super::super::attempt::Failure;
use super::super::stream::{Stream, Traffic};
use super::super::upload::{Progress, Upload};
use super::super::wait::{Stopwatch, Wait};
use super::head::{Scheme, fold};
use super::pump::Pump;
use super::session::Slot;
use crate::tasks::Tasks;

/// A stream whose answer has begun. Dropped before its end it resets the stream, so that the upstream learns that its
/// client went away.
pub(in crate::proxy) struct Exchange {
    pub(super) alarm: Alarm,
    pub(super) traffic: Arc<Traffic>,
    /// What is left of the request's body goes on by itself: it must not wait for a client that does not read.
    _pump: Option<Running>,
    _slot: Slot,
}

impl Exchange {
    /// One without a request's body.
    pub(super) fn new(slot: Slot) -> Self {
        Self { alarm: Alarm::new(), traffic: Arc::default(), _pump: None, _slot: slot }
    }
}

/// A task that ends with its owner.
pub(super) struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What became of a try.
pub(in crate::proxy) type Tried = Result<(Response<RecvStream>, Exchange), Failure>;

/// Sends a request and waits for the head of its answer. `body` is taken, and put back if it may be sent again.
pub(in crate::proxy) async fn send(
    mut slot: Slot,
    head: &request::Parts,
    body: &mut Upload,
    scheme: Scheme,
    wait: &Wait<'_>,
    tasks: &Tasks,
) -> Tried {
    // The fields are kept: a stream that the other side has not looked at may be sent again.
    let folded = fold(head.method.clone(), &head.uri, head.headers.clone(), scheme).map_err(Failure::Final)?;
    let has_body = wait.progress.is_some();
    let (mut response, stream) = match slot.sender.send_request(folded, !has_body) {
        Ok(opened) => opened,
        Err(error) if error.is_io() || error.is_go_away() => {
            return Err(Failure::NotSent);
        }
        Err(error) => {
            tracing::warn!(%error, "a request can't be said in HTTP/2");
            return Err(Failure::Final(Error::BadRequest));
        }
    };
    let traffic = Arc::new(Traffic::default());
    let mut pump = has_body.then(|| Box::new(Pump::new(std::mem::replace(body, Upload::None), stream, Arc::clone(&traffic))));
    // Whether the body is through. A pump that has ended is kept, for its body may not have been touched.
    let mut pumped = !has_body;
    let mut alarm = Alarm::new();
    let mut clock = Stopwatch::default();
    let answered = poll_fn(|cx| {
        take_informational(&mut response, wait.progress, cx);
        if !pumped && let Some(pump) = &mut pump {
            pumped = Pin::new(pump.as_mut()).poll(cx).is_ready();
        }
        match Pin::new(&mut response).poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Ok(answer)),
            Poll::Pending => clock.poll(cx, &traffic, &mut alarm, !pumped, wait).map(Err),
        }
    })
    .await;
    match answered {
        Ok(Ok(answer)) => {
            slot.answered();
            let pump = pump.filter(|_| !pumped).map(|pump| Running(tasks.spawn(pump)));
            Ok((answer, Exchange { alarm, traffic, _pump: pump, _slot: slot }))
        }
        Ok(Err(error)) => Err(match classify(&error, wait.progress) {
            Why::NotProcessed => match pump.map_or(Some(Upload::None), |pump| pump.into_untouched()) {
                Some(upload) => {
                    *body = upload;
                    Failure::NotProcessed
                }
                None => Failure::Final(Error::BrokenOff),
            },
            Why::Silent => Failure::Silent,
            Why::Final(error) => Failure::Final(error),
        }),
        Err(failure) => {
            if matches!(failure, Failure::Final(Error::TooSlow)) {
                slot.doubt();
            }
            Err(failure)
        }
    }
}

/// Takes note of a `100 Continue`; other interim answers are consumed (RFC 9110, section 15.2).
fn take_informational(response: &mut ResponseFuture, progress: Option<&Progress>, cx: &mut std::task::Context<'_>) {
    let Some(progress) = progress else { return };
    while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
        if interim.status() == StatusCode::CONTINUE {
            progress.want();
        }
    }
}

/// Why there is no answer.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// The other side says that it has not looked at the request (RFC 9113, section 8.7), so any may be sent again.
    NotProcessed,
    /// The connection broke before a byte of an answer came.
    Silent,
    /// It is no use.
    Final(Error),
}

/// What an error that came instead of an answer means.
pub(super) fn classify(error: &h2::Error, progress: Option<&Progress>) -> Why {
    if progress.is_some_and(Progress::too_large) {
        Why::Final(Error::BodyTooLarge)
    } else if progress.is_some_and(Progress::client_gone) {
        Why::Final(Error::ClientGone)
    } else if error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM)) {
        // `h2` fails those streams with the GOAWAY itself that come behind the last one it names.
        Why::NotProcessed
    } else if error.is_io() {
        Why::Silent
    } else if error.is_remote() {
        Why::Final(Error::BrokenOff)
    } else {
        tracing::warn!(%error, "an upstream's answer is not HTTP/2");
        Why::Final(Error::BadResponse)
    }
}

/// Asks for a path alone on a connection of its own, as a probe does.
pub(in crate::proxy) async fn get(stream: Stream, path: &Uri, host: HeaderValue, scheme: Scheme) -> Result<StatusCode, Error> {
    let request = fold(Method::GET, path, std::iter::once((HOST, host)).collect(), scheme)?;
    let (mut sender, connection) = h2::client::handshake(stream).await.map_err(|_| Error::Unreachable)?;
    let (response, _stream) = sender.send_request(request, true).map_err(|_| Error::BrokenOff)?;
    let answered = tokio::select! {
        biased;
        answered = response => answered,
        ended = connection => Err(ended.err().unwrap_or_else(|| Reason::NO_ERROR.into())),
    };
    answered.map(|answer| answer.status()).map_err(|error| match classify(&error, None) {
        Why::NotProcessed | Why::Silent => Error::BrokenOff,
        Why::Final(error) => error,
    })
}
