//! Connections that no longer speak HTTP, such as `WebSocket` (RFC 9110, section 7.8; RFC 6455).

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::time::{Instant, sleep, timeout};

use super::Ended;
use super::counters::{Gauge, Which};
use super::endpoint::Chosen;
use super::stream::Traffic;
use super::upstream::{Permit, Upstream};
use crate::tasks::Tasks;

/// How often an upgrade asks whether its session has ended or it has fallen silent.
const TICK: Duration = Duration::from_secs(1);

/// How long the client's side may take to become ours after the 101 was handed to the server.
const HANDOVER: Duration = Duration::from_secs(10);

/// An upstream's side of an upgrade.
pub(super) struct Upgraded<S> {
    pub(super) stream: S,
    /// What came with the answer's head.
    pub(super) read_too_far: Bytes,
    pub(super) traffic: Arc<Traffic>,
    /// Its connection counts for as long as this lives.
    pub(super) permit: Option<Permit>,
    pub(super) chosen: Chosen,
    /// Dropped at the end.
    pub(super) hold: Option<Box<dyn Any + Send>>,
}

/// Joins `client`, once the answer's head has reached it, to the upstream until either closes, nothing is carried for
/// `stream_idle_timeout`, the session ends or the process has drained for as long as it may: until then an upgrade is in flight
/// like any other answer.
pub(super) fn join<S>(client: OnUpgrade, server: Upgraded<S>, upstream: &Arc<Upstream>, ended: Option<Ended>, tasks: &Tasks)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let gauge = Gauge::new(&upstream.counters, Which::Upgrades);
    let idle = upstream.stream_idle_timeout;
    let stopping = tasks.clone();
    drop(tasks.spawn(async move {
        let Upgraded { mut stream, read_too_far, traffic, permit, chosen, hold } = server;
        let _places = (gauge, permit, chosen, hold);
        let Ok(Ok(client)) = timeout(HANDOVER, client).await else {
            return;
        };
        let mut client = TokioIo::new(client);
        let carry = async {
            client.write_all(&read_too_far).await?;
            client.flush().await?;
            copy_bidirectional(&mut client, &mut stream).await
        };
        tokio::select! {
            // Either way both connections are closed: there is nobody to tell about a failure.
            _carried = carry => {}
            () = cut(&traffic, idle, ended) => {}
            () = stopping.cut_off() => {}
        }
    }));
}

/// Resolves when the upgrade has to end.
async fn cut(traffic: &Traffic, idle: Duration, ended: Option<Ended>) {
    let mut silent_since = Instant::now();
    let mut carried = traffic.total();
    loop {
        sleep(TICK.min(idle)).await;
        if ended.as_ref().is_some_and(|ended| ended()) {
            return;
        }
        let total = traffic.total();
        if total != carried {
            carried = total;
            silent_since = Instant::now();
        } else if silent_since.elapsed() >= idle {
            return;
        }
    }
}
