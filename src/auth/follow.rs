//! Following what other processes change in a store that is shared: their news are taken over as they come, and what
//! something open depends on is read again. When the news stay away, so does the store: see `live::doubt`.

use std::sync::Arc;
use std::time::Duration;

use super::Auth;
use super::live::Looked;
use crate::clock::Clock;
use crate::store::Follow;
use crate::tasks::Tasks;

/// How often it is looked at whether the news stay away.
const WEIGH_EVERY: Duration = Duration::from_millis(250);

/// News come, or the word that there are none, about once a second. Whoever says nothing for as long is asked anew.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// The pause after the first failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How many read again at a time what nobody waits for.
const READERS: usize = 2;

/// How often they look without being told to.
const READ_EVERY: Duration = Duration::from_millis(500);

impl Auth {
    /// Starts to follow, where others share the store; ends when `tasks` stop. The second time it does nothing.
    pub fn follow(self: &Arc<Self>, clock: &Clock, tasks: &Tasks) {
        let feed = self.feed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(feed) = feed else { return };
        self.live.heard();
        until_stopped(tasks, Arc::clone(self).listen(feed));
        until_stopped(tasks, Arc::clone(self).watch_presence());
        for _ in 0..READERS {
            until_stopped(tasks, Arc::clone(self).read_stale(clock.clone()));
        }
    }

    async fn listen(self: Arc<Self>, mut feed: Box<dyn Follow>) {
        let mut pause = FIRST_PAUSE;
        loop {
            match tokio::time::timeout(HANGS_AFTER, feed.next()).await {
                Ok(Ok(news)) => {
                    self.live.hear(&news);
                    self.live.heard();
                    pause = FIRST_PAUSE;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "what others change can't be followed at the moment");
                    tokio::time::sleep(with_jitter(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(_) => tracing::debug!("whoever tells what others change has said nothing for too long"),
            }
        }
    }

    async fn watch_presence(self: Arc<Self>) {
        loop {
            tokio::time::sleep(WEIGH_EVERY).await;
            say_presence(self.live.weigh());
        }
    }

    /// Reads again what has changed elsewhere and is not asked for by a request.
    async fn read_stale(self: Arc<Self>, clock: Clock) {
        loop {
            let next = if self.live.is_store_away() { None } else { self.live.next_stale() };
            let Some(question) = next else {
                let _in_time = tokio::time::timeout(READ_EVERY, self.live.stale_changed()).await;
                continue;
            };
            match self.look(question, clock.now()).await {
                Looked::Known | Looked::Gone => {}
                Looked::Away => {
                    self.live.look_again(question);
                    tokio::time::sleep(with_jitter(READ_EVERY)).await;
                }
            }
        }
    }
}

/// Says in the log that the store went away or came back.
pub(super) fn say_presence(away: Option<bool>) {
    match away {
        None => {}
        Some(false) => tracing::info!("the store answers again"),
        Some(true) => tracing::error!("the store does not answer: sessions that were seen a moment ago go on, others get 503"),
    }
}

/// Between a half and the whole of `pause`: many processes that lost the same store do not come back in step.
fn with_jitter(pause: Duration) -> Duration {
    let random = u32::from(u16::from_be_bytes(crate::crypto::random::bytes()));
    pause / 2 + (pause / 2).saturating_mul(random) / u32::from(u16::MAX)
}

fn until_stopped(tasks: &Tasks, work: impl Future<Output = ()> + Send + 'static) {
    let stopped = tasks.stopped();
    tasks.spawn(async move {
        tokio::select! {
            biased;
            () = stopped => {}
            () = work => {}
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_never_longer_and_never_nothing() {
        for _ in 0..1000 {
            let pause = with_jitter(LONGEST_PAUSE);
            assert!(pause >= LONGEST_PAUSE / 2 && pause <= LONGEST_PAUSE);
        }
    }
}
