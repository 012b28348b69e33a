//! The application's own word on how it is.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::Poll;

use http::header::HOST;
use http::{Request, StatusCode};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::connect::Purpose;
use super::endpoint::Endpoint;
use super::upstream::Upstream;
use super::{Error, http2};
use crate::wire::body::Body;

/// Asks for the health path on a connection of its own, which the cap does not count: a busy upstream is not an ill one.
pub(super) async fn probe(upstream: &Upstream, endpoint: &Endpoint) -> Result<StatusCode, Error> {
    let dialed = endpoint.dialer.dial(Purpose::Requests).await?;
    if dialed.is_http2 {
        let path = upstream.health_path.as_deref().unwrap_or("/").parse().map_err(|_| Error::BadRequest)?;
        let asked = http2::get(dialed.stream, &path, endpoint.own_host.clone(), endpoint.dialer.scheme());
        return timeout(upstream.response_timeout, asked).await.unwrap_or(Err(Error::TooSlow));
    }
    let (mut sender, connection) = handshake::<_, Body>(TokioIo::new(dialed.stream)).await.map_err(|_| Error::Unreachable)?;
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = upstream.health_path.as_deref().unwrap_or("/").parse().map_err(|_| Error::BadRequest)?;
    request.headers_mut().insert(HOST, endpoint.own_host.clone());
    let mut answer = pin!(sender.send_request(request));
    let mut connection = pin!(connection);
    let mut ended = false;
    let answered = poll_fn(|cx| {
        if !ended {
            ended = connection.as_mut().poll(cx).is_ready();
        }
        match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if ended => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    match timeout(upstream.response_timeout, answered).await {
        Err(_elapsed) => Err(Error::TooSlow),
        Ok(Some(Ok(answer))) => Ok(answer.status()),
        Ok(Some(Err(error))) if error.is_parse() => Err(Error::BadResponse),
        Ok(Some(Err(_)) | None) => Err(Error::BrokenOff),
    }
}
