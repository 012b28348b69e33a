//! One request and its answer, from head to body.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::attempt::{AnswerBody, Answered, attempt};
use super::counters::{Gauge, Which};
use super::cut::Cut;
use super::download::Download;
use super::endpoint::Chosen;
use super::http2::Http2Download;
use super::pool::Pool;
use super::upgrade::{self, Upgraded};
use super::upload::Upload;
use super::wait::Wait;
use super::{Error, Forward, Proxy, request, response};
use crate::wire::body::Body;
use crate::wire::websocket::Unfolded;

/// See [`super::Worker::forward`].
pub(super) async fn forward(
    proxy: &Arc<Proxy>,
    pool: &Arc<Pool>,
    request: Request<Incoming>,
    mut how: Forward<'_>,
) -> Result<Response<Body>, Error> {
    let upstream = &pool.upstream;
    let gauge = Gauge::new(&upstream.counters, Which::InFlight);
    upstream.counters.requests.fetch_add(1, Ordering::Relaxed);
    let (mut parts, body) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Err(Error::BadRequest);
    }
    if proxy.max_body.is_some_and(|limit| body.size_hint().lower() > limit) {
        return Err(Error::BodyTooLarge);
    }
    let protocol = request::wanted_upgrade(&parts, !body.is_end_stream());
    let client = protocol.is_some().then(|| parts.extensions.remove::<OnUpgrade>()).flatten();
    let protocol = protocol.filter(|_| client.is_some());
    let unfolded = parts.extensions.remove::<Unfolded>();
    let expects = parts.version == Version::HTTP_11 && parts.headers.contains_key(EXPECT);
    let is_grpc = request::is_grpc(&parts.headers);
    request::rewrite(&mut parts, proxy, upstream, &how, protocol.as_ref(), !body.is_end_stream())?;

    let (body, progress) = Upload::new(body, proxy, proxy.max_body, expects);
    let wait = Wait {
        progress: progress.as_deref(),
        // gRPC and upgrades answer when they have something to say.
        answer: if is_grpc || protocol.is_some() { upstream.stream_idle_timeout } else { upstream.response_timeout },
        // Who has begun a body and goes no further keeps a connection to the upstream from everybody else.
        silence: if is_grpc { upstream.stream_idle_timeout } else { upstream.stream_idle_timeout.min(upstream.response_timeout) },
        ended: how.ended.as_ref(),
        upgrade: protocol.as_ref(),
    };
    let Answered { head: mut parts, body, chosen } = attempt(pool, parts, body, &wait).await?;
    if let Some(progress) = &progress {
        progress.answer();
    }
    let ended = how.ended.take();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(asked), Some(client)) = (&protocol, client) else {
            tracing::warn!(upstream = %upstream.name, "an upgrade that nobody asked for");
            return Err(Error::BadResponse);
        };
        if !is_one_of(parts.headers.get(UPGRADE), asked) {
            tracing::warn!(upstream = %upstream.name, "an upgrade to another protocol than was asked for");
            return Err(Error::BadResponse);
        }
        response::rewrite(&mut parts, upstream, &how);
        if unfolded.is_some_and(|unfolded| !unfolded.fold(&mut parts)) {
            tracing::warn!(upstream = %upstream.name, "a WebSocket's handshake was answered with another key than was sent");
            return Err(Error::BadResponse);
        }
        match body {
            AnswerBody::Http1(link) => {
                let traffic = Arc::clone(&link.traffic);
                let (stream, read_too_far, permit) = link.into_upgraded();
                let server = Upgraded { stream, read_too_far, traffic, permit: Some(permit), chosen, hold: how.hold };
                upgrade::join(client, server, upstream, ended, &proxy.tasks);
            }
            AnswerBody::Tunnel(tunnel) => {
                let traffic = Arc::clone(&tunnel.traffic);
                let server = Upgraded { stream: *tunnel, read_too_far: Bytes::new(), traffic, permit: None, chosen, hold: how.hold };
                upgrade::join(client, server, upstream, ended, &proxy.tasks);
            }
            // HTTP/2 has no 101, so `h2` gives none (RFC 9113, section 8.6).
            AnswerBody::Http2(..) => return Err(Error::BadResponse),
        }
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    if unfolded.is_some() && parts.status.is_success() {
        tracing::warn!(upstream = %upstream.name, "a WebSocket's handshake was answered like any other request");
        return Err(Error::BadResponse);
    }
    let length = content_length(&parts.headers);
    response::rewrite(&mut parts, upstream, &how);
    let cut = Cut::new(ended, upstream.stream_idle_timeout);
    let place = InFlight { _gauge: gauge, _chosen: chosen };
    let body = match body {
        AnswerBody::Http1(mut link) => {
            // Most answers are small and come whole with their heads: then there is nothing to stream.
            if let Some(whole) = link.http.take_whole() {
                pool.put(link);
                Body::full(whole)
            } else if link.http.is_complete() {
                pool.put(link);
                Body::empty()
            } else {
                Body::stream(Download::new(link, Arc::clone(pool), cut, place))
            }
        }
        AnswerBody::Http2(stream, _) if stream.is_end_stream() => Body::empty(),
        AnswerBody::Http2(stream, exchange) => Body::stream(Http2Download::new(stream, length, exchange, cut, place)),
        AnswerBody::Tunnel(_) => return Err(Error::BadResponse),
    };
    Ok(Response::from_parts(parts, body))
}

/// A request that was answered, until the answer's body has ended.
pub(super) struct InFlight {
    _gauge: Gauge,
    _chosen: Chosen,
}

/// The length that an answer declares; `h2` has refused lengths that differ or are none.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether the protocol that was switched to is among those that were asked for.
fn is_one_of(got: Option<&HeaderValue>, asked: &HeaderValue) -> bool {
    let (Some(Ok(got)), Ok(asked)) = (got.map(HeaderValue::to_str), asked.to_str()) else {
        return false;
    };
    asked.split(',').any(|protocol| protocol.trim().eq_ignore_ascii_case(got.trim()))
}
