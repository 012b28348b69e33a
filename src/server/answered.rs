//! The end of a request: when the last byte of an answer is through, or the client has gone, it is counted and logged.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::connection::Connection;
use crate::clock::Timestamp;
use crate::model::UserId;
use crate::proxy::UpstreamIndex;
use crate::telemetry::metrics::{Decided, Requests};
use crate::telemetry::{AccessLog, Line, Metrics};
use crate::wire::body::{Body, BodyError};

/// What is known of a request when its answer begins.
#[derive(Debug)]
pub struct Record {
    /// When it came.
    pub at: Timestamp,
    /// The same, for measuring.
    pub started: Instant,
    /// Its id.
    pub request_id: String,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Its method.
    pub method: http::Method,
    /// Its path; the query beside it is never logged.
    pub target: PathAndQuery,
    /// Where it was forwarded to.
    pub upstream: Option<UpstreamIndex>,
    /// From sending it on to the head of the answer.
    pub upstream_time: Option<Duration>,
    /// Who.
    pub user: Option<UserId>,
    /// What was decided.
    pub decided: Decided,
    /// The answer's status.
    pub status: u16,
}

/// Where records go.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// The access log.
    pub access: AccessLog,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The counters of each upstream, in the configuration's order.
    pub upstreams: Vec<Arc<Requests>>,
    /// Requests that came through a proxy which nobody declared.
    pub undeclared: Arc<AtomicU64>,
}

impl Recorder {
    /// Notes that `client` is most likely a proxy which is not in `server.trusted_proxies`; the log says so once.
    pub fn undeclared(&self, client: IpAddr) {
        if self.undeclared.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                %client,
                "requests come from a private address with X-Forwarded-For, but server.trusted_proxies does not name it: everybody \
                 seems to be this address, so it is never locked after failed sign-ins; declare the proxy"
            );
        }
    }
}

/// An answer's body that reports its end.
#[derive(Debug)]
pub struct Answered {
    body: Body,
    bytes: u64,
    /// Whether the body said that it is over, well or not.
    over: bool,
    record: Record,
    recorder: Arc<Recorder>,
    connection: Arc<Connection>,
}

impl Answered {
    /// Wraps a body.
    pub fn new(body: Body, record: Record, recorder: Arc<Recorder>, connection: Arc<Connection>) -> Self {
        recorder.metrics.in_flight.inc();
        Self { body, bytes: 0, over: false, record, recorder, connection }
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.connection.activity.answered(self.over || self.body.is_end_stream());
        let record = &self.record;
        let metrics = &self.recorder.metrics;
        metrics.in_flight.dec();
        let upstream = record.upstream.and_then(|index| self.recorder.upstreams.get(index.index()));
        upstream.map_or(metrics.not_forwarded(), |requests| requests.as_ref()).answered(record.status, record.decided);
        self.recorder.access.line(&Line {
            at: record.at,
            request_id: &record.request_id,
            client: record.client,
            method: record.method.as_str(),
            path: record.target.path(),
            status: record.status,
            bytes: self.bytes,
            duration: record.started.elapsed(),
            upstream: upstream.map(|requests| requests.upstream()),
            upstream_time: record.upstream_time,
            user: record.user,
            decision: record.decided.as_str(),
        });
    }
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.bytes += data.len() as u64;
        }
        self.over |= matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
