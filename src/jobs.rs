//! What happens by itself: following what others change, writing behind, asking the store whether it answers, and removing
//! what has run out.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::Auth;
use crate::clock::Clock;
use crate::tasks::Tasks;

/// How often what the request path learned is written.
const WRITE_BEHIND_EVERY: Duration = Duration::from_secs(5);

/// How often the store is asked whether it answers, and how long it may take.
const CHECK_STORE_EVERY: Duration = Duration::from_secs(1);
const STORE_PATIENCE: Duration = Duration::from_secs(3);

/// How often what nobody uses leaves memory.
const DROP_UNUSED_EVERY: Duration = Duration::from_secs(60);

/// How often what has run out is removed.
const PURGE_EVERY: Duration = Duration::from_secs(300);

/// Starts the jobs; they end when `tasks` stop.
pub fn start(auth: &Arc<Auth>, clock: &Clock, tasks: &Tasks) {
    auth.follow(clock, tasks);
    let (job, time) = (Arc::clone(auth), clock.clone());
    every(tasks, DROP_UNUSED_EVERY, move || {
        let (auth, now) = (Arc::clone(&job), time.now());
        async move { auth.drop_unused(now) }
    });
    let job = Arc::clone(auth);
    every(tasks, WRITE_BEHIND_EVERY, move || {
        let auth = Arc::clone(&job);
        async move {
            if let Err(error) = auth.write_behind().await {
                tracing::warn!(%error, "when sessions were last seen could not be written; it is tried again");
            }
        }
    });
    let job = Arc::clone(auth);
    every(tasks, CHECK_STORE_EVERY, move || {
        let auth = Arc::clone(&job);
        async move {
            auth.check_store(STORE_PATIENCE).await;
        }
    });
    let (job, clock) = (Arc::clone(auth), clock.clone());
    every(tasks, PURGE_EVERY, move || {
        let (auth, now) = (Arc::clone(&job), clock.now());
        async move {
            match auth.purge(now).await {
                Ok(0) => {}
                Ok(removed) => tracing::debug!(removed, "removed what had run out"),
                Err(error) => tracing::warn!(%error, "what has run out could not be removed; it is tried again"),
            }
        }
    });
}

fn every<F, W>(tasks: &Tasks, period: Duration, mut work: W)
where
    W: FnMut() -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let stopped = tasks.stopped();
    tasks.spawn(async move {
        let mut stopped = std::pin::pin!(stopped);
        loop {
            tokio::select! {
                biased;
                () = stopped.as_mut() => return,
                () = tokio::time::sleep(period) => work().await,
            }
        }
    });
}
