//! Sending a request until it is answered or may not be tried again.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};

use h2::RecvStream;
use http::header::{HOST, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{HeaderValue, Method, StatusCode, request, response};

use super::Error;
use super::connect::Purpose;
use super::endpoint::{Chosen, Endpoint};
use super::http1::NoAnswer;
use super::http2::{self, Opened, Slot};
use super::pool::{Link, Pool, Way};
use super::upload::{Progress, Upload};
use super::wait::{Stopwatch, Wait};
use crate::tasks::Tasks;
use crate::wire::websocket;

/// An answer's head, what its body comes from, and where that leads.
pub(super) struct Answered {
    pub(super) head: response::Parts,
    pub(super) body: AnswerBody,
    pub(super) chosen: Chosen,
}

/// What an answer's body comes from.
pub(super) enum AnswerBody {
    Http1(Box<Link>),
    Http2(RecvStream, http2::Exchange),
    /// A `WebSocket` that is open.
    Tunnel(Box<http2::Tunnel>),
}

/// Why there is no answer, as far as it matters for trying again.
pub(super) enum Failure {
    /// Nothing of the request was written.
    NotSent,
    /// The other side says that it has not looked at it (RFC 9113, section 8.7), and its body was not touched.
    NotProcessed,
    /// The connection closed before a byte of an answer came.
    Silent,
    /// The body did not move for too long: the client may not have sent it, or the upstream not have taken it.
    Stalled,
    /// It is no use.
    Final(Error),
}

impl Failure {
    /// Whether it was the endpoint's fault. A status that an application chose never is, and neither is a body that a
    /// client does not send on.
    const fn is_endpoints(&self) -> bool {
        match self {
            // It closes in good order, or keeps to its own limits.
            Self::NotProcessed => false,
            Self::NotSent | Self::Silent => true,
            Self::Stalled => false,
            Self::Final(error) => match error {
                Error::Unreachable | Error::BrokenOff | Error::BadResponse | Error::TooSlow => true,
                Error::Saturated
                | Error::TakenOut
                | Error::BodyTooLarge
                | Error::BadPrefix
                | Error::BadRequest
                | Error::ClientGone
                | Error::SessionEnded => false,
            },
        }
    }

    /// Whether the connection closed before a byte of an answer came.
    const fn is_silent(&self) -> bool {
        matches!(self, Self::NotSent | Self::Silent)
    }
}

/// Sends a request until it is answered or may not be tried again: when no connection came about nothing was sent, so
/// any request may be, and so may one that the other side says it has not looked at; when a connection that had been used
/// before closed without a word, it had probably been closing already, and a request that changes nothing (RFC 9110,
/// section 9.2.1) and has no body may be sent once more. A further try goes to another endpoint than the one that failed,
/// if there is one.
pub(super) async fn attempt(pool: &Arc<Pool>, mut head: request::Parts, mut body: Upload, wait: &Wait<'_>) -> Result<Answered, Error> {
    let upstream = &pool.upstream;
    let harmless = wait.progress.is_none() && matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let mut tries_left = upstream.retries;
    let mut retry = || {
        let again = tries_left > 0 && upstream.may_retry();
        tries_left = tries_left.saturating_sub(1);
        again
    };
    let mut fresh = false;
    let mut avoid = None;
    // Should the try before have been what took out the last endpoint, then that is what happened to this request.
    let mut why_not = Error::TakenOut;
    loop {
        let mut chosen = upstream.choose(avoid, &pool.dice).ok_or(why_not)?;
        // By prior knowledge there is only HTTP/2, which has a way of its own to open a WebSocket.
        let is_h2c = chosen.endpoint().dialer.is_h2c();
        let purpose = if wait.upgrade.is_some() && !is_h2c { Purpose::Upgrade } else { Purpose::Requests };
        let way = match pool.acquire(&mut chosen, avoid, fresh, purpose).await {
            Ok(way) => way,
            Err(error @ (Error::Unreachable | Error::TooSlow)) => {
                upstream.failed(chosen.endpoint(), &pool.dice);
                if !retry() {
                    return Err(error);
                }
                avoid = Some(chosen.endpoint().place);
                why_not = error;
                continue;
            }
            Err(error) => return Err(error),
        };
        let endpoint = chosen.endpoint();
        if upstream.endpoints.len() > 1 && !upstream.pass_host {
            head.headers.insert(HOST, endpoint.own_host.clone());
        }
        let (tried, used) = match way {
            Way::Http1(mut link, used) => {
                let tried = send_http1(&mut link, &head, &mut body, wait).await;
                (tried.map(|head| (head, AnswerBody::Http1(link))), used)
            }
            Way::Http2(slot) => {
                let used = slot.was_used();
                (Box::pin(send_http2(slot, &head, &mut body, endpoint, wait, &pool.tasks)).await, used)
            }
        };
        let failure = match tried {
            Ok((head, body)) => {
                endpoint.succeeded();
                return Ok(Answered { head, body, chosen });
            }
            Err(failure) => failure,
        };
        // One that had been used may just have been closing.
        if failure.is_endpoints() && !(used && failure.is_silent()) {
            upstream.failed(endpoint, &pool.dice);
        }
        match failure {
            // It had closed while it was idle, before a byte of the request was written. There may be more like it.
            Failure::NotSent if used => {}
            Failure::NotSent | Failure::NotProcessed if retry() => {
                avoid = Some(endpoint.place);
                why_not = Error::BrokenOff;
            }
            Failure::Silent if used && harmless && retry() => {
                fresh = true;
                avoid = Some(endpoint.place);
                why_not = Error::BrokenOff;
            }
            Failure::NotSent | Failure::NotProcessed | Failure::Silent => return Err(Error::BrokenOff),
            Failure::Stalled => return Err(Error::TooSlow),
            Failure::Final(error) => return Err(error),
        }
    }
}

/// Sends a request and waits for the head of its answer, driving the connection. `body` is taken when the head is sent.
async fn send_http1(link: &mut Link, head: &request::Parts, body: &mut Upload, wait: &Wait<'_>) -> Result<response::Parts, Failure> {
    let mut clock = Stopwatch::default();
    let mut begun = false;
    let answered = poll_fn(|cx| {
        if !begun {
            if !ready!(link.http.poll_quiet(cx)) {
                return Poll::Ready(Err(Failure::NotSent));
            }
            link.http.begin(head, std::mem::replace(body, Upload::None));
            begun = true;
        }
        let interim = |status| {
            if let Some(progress) = wait.progress
                && status == StatusCode::CONTINUE
            {
                progress.want();
            }
        };
        match link.http.poll_answer(cx, interim) {
            Poll::Ready(answer) => Poll::Ready(answer.map_err(|error| classify(&error, wait))),
            Poll::Pending => {
                let sending = !wait.progress.is_none_or(Progress::done);
                clock.poll(cx, &link.traffic, &mut link.alarm, sending, wait).map(Err)
            }
        }
    })
    .await?;
    link.heed_keep_alive(&answered.headers);
    Ok(answered)
}

fn classify(error: &NoAnswer, wait: &Wait<'_>) -> Failure {
    if wait.progress.is_some_and(Progress::too_large) {
        return Failure::Final(Error::BodyTooLarge);
    }
    if wait.progress.is_some_and(Progress::client_gone) {
        return Failure::Final(Error::ClientGone);
    }
    match error {
        NoAnswer::Silent => Failure::Silent,
        NoAnswer::BrokenOff => Failure::Final(Error::BrokenOff),
        NoAnswer::Malformed(error) => {
            tracing::warn!(%error, "an upstream's answer is not valid HTTP");
            Failure::Final(Error::BadResponse)
        }
        // The one who sent it is at fault.
        NoAnswer::Body => Failure::Final(Error::BadRequest),
    }
}

/// Sends a request on a stream of its own; one that asks for a `WebSocket` opens it there.
async fn send_http2(
    slot: Slot,
    head: &request::Parts,
    body: &mut Upload,
    endpoint: &Endpoint,
    wait: &Wait<'_>,
    tasks: &Tasks,
) -> Result<(response::Parts, AnswerBody), Failure> {
    let scheme = endpoint.dialer.scheme();
    // Any other upgrade may be ignored (RFC 9110, section 7.8), and there is none in HTTP/2.
    if !wait.upgrade.is_some_and(websocket::is_websocket) {
        let (answer, exchange) = http2::send(slot, head, body, scheme, wait, tasks).await?;
        let (parts, body) = answer.into_parts();
        return Ok((parts, AnswerBody::Http2(body, exchange)));
    }
    let accept = websocket::accept(&head.headers).ok_or(Failure::Final(Error::BadRequest))?;
    match http2::open(slot, &head.uri, head.headers.clone(), scheme, wait.answer).await.map_err(Failure::Final)? {
        Opened::Refused(refused) => {
            let (answer, exchange) = *refused;
            let (parts, body) = answer.into_parts();
            Ok((parts, AnswerBody::Http2(body, exchange)))
        }
        Opened::Open(opened) => {
            // The answer that HTTP/1.1 would have given.
            let (answer, tunnel) = *opened;
            let (mut parts, ()) = answer.into_parts();
            parts.status = StatusCode::SWITCHING_PROTOCOLS;
            parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            parts.headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
            Ok((parts, AnswerBody::Tunnel(Box::new(tunnel))))
        }
    }
}
