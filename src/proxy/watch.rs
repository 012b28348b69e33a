//! What is done for an upstream while nobody asks: its probes, and following its names.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::endpoint::Endpoint;
use super::probe;
use super::upstream::Upstream;
use crate::tasks::Tasks;

/// Begins, unless it has begun before. `again`: how often names are asked for again.
pub(super) fn begin(upstream: &Arc<Upstream>, tasks: &Tasks, again: Duration) {
    if !upstream.begin_to_watch() {
        return;
    }
    for endpoint in &upstream.endpoints {
        if let Some(interval) = upstream.health_interval {
            repeat(upstream, endpoint, tasks, interval, move |upstream, endpoint| async move {
                let limit = interval.max(upstream.connect_timeout);
                let answered = timeout(limit, probe::probe(&upstream, &endpoint)).await;
                upstream.probed(&endpoint, matches!(answered, Ok(Ok(status)) if !status.is_server_error() && !status.is_client_error()));
            });
        }
        if endpoint.dialer.name().is_some() {
            repeat(upstream, endpoint, tasks, again, |upstream, endpoint| async move {
                // Nobody asks for the address of what is not in use.
                if let Some(name) = endpoint.dialer.name()
                    && upstream.counters.open.load(Ordering::Relaxed) > 0
                    && let Err(error) = name.look_up().await
                {
                    tracing::debug!(upstream = upstream.name, endpoint = %endpoint.dialer, %error, "the name could not be looked up");
                }
            });
        }
    }
}

/// Does `what` every `interval`, until the tasks stop or the upstream is gone: one that no configuration names any more
/// is held by its last requests alone.
fn repeat<F>(
    upstream: &Arc<Upstream>,
    endpoint: &Arc<Endpoint>,
    tasks: &Tasks,
    interval: Duration,
    what: impl Fn(Arc<Upstream>, Arc<Endpoint>) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let (gone, stopped, endpoint, upstream): (_, _, _, Weak<Upstream>) =
        (upstream.gone(), tasks.stopped(), Arc::clone(endpoint), Arc::downgrade(upstream));
    drop(tasks.spawn(async move {
        let mut stopped = pin!(stopped);
        loop {
            // Also after it was done: what takes long does not pile up.
            tokio::select! {
                () = stopped.as_mut() => return,
                () = gone.cancelled() => return,
                () = sleep(interval) => {}
            }
            let Some(upstream) = upstream.upgrade() else { return };
            tokio::select! {
                () = stopped.as_mut() => return,
                () = what(upstream, Arc::clone(&endpoint)) => {}
            }
        }
    }));
}
