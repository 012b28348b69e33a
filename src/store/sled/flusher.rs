//! The one thread that makes writes durable. All writers that wait when it begins a flush are answered by that one
//! (group commit). sled's `flush_async` is never used: it can lock up for ever (spacejam/sled#1308).

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::health::{Busy, Health};
use crate::store::Error;

/// How long to wait before trying again after a failed flush.
const RETRY: Duration = Duration::from_secs(1);

/// The thread's handle. Dropping it flushes once more and waits for the thread.
#[derive(Debug)]
pub(super) struct Flusher {
    queue: Option<Sender<Waiter>>,
    thread: Option<JoinHandle<()>>,
    health: Arc<Health>,
}

impl Flusher {
    /// Starts the thread. `flush` makes everything durable that was written before its call.
    pub(super) fn start(health: Arc<Health>, flush: impl Fn() -> Result<(), String> + Send + 'static) -> Result<Self, Error> {
        let (queue, requests) = channel();
        let thread = std::thread::Builder::new()
            .name("store-flush".to_owned())
            .spawn({
                let health = Arc::clone(&health);
                move || run(&requests, &health, &flush)
            })
            .map_err(|error| Error::Unavailable(format!("can't start the flush thread: {error}")))?;
        Ok(Self { queue: Some(queue), thread: Some(thread), health })
    }

    /// Asks for a flush of everything written so far.
    pub(super) fn request(&self) -> Flushed {
        let (answer, flushed) = oneshot::channel();
        let waiter = Waiter { answer, _busy: self.health.begin() };
        if let Some(queue) = &self.queue {
            // When the thread is gone the waiter is dropped, and `Flushed` says so.
            drop(queue.send(waiter));
        }
        Flushed(flushed)
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the flush thread of the database broke off");
        }
    }
}

/// A flush that was asked for.
#[derive(Debug)]
pub(super) struct Flushed(oneshot::Receiver<Result<(), String>>);

impl Flushed {
    /// Waits until it is done. [`Error::Unavailable`]: it failed, and the write may be lost.
    pub(super) async fn wait(self) -> Result<(), Error> {
        match self.0.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(Error::Unavailable(format!("the write could not be made durable: {why}"))),
            Err(_) => Err(Error::Unavailable("the flush thread has ended".to_owned())),
        }
    }
}

/// Somebody who waits for a flush.
#[derive(Debug)]
struct Waiter {
    answer: oneshot::Sender<Result<(), String>>,
    /// Counts the wait, so that a flush that hangs is noticed.
    _busy: Busy,
}

/// Flushes until nobody can ask any more, then once again for what was written without waiting.
fn run(requests: &Receiver<Waiter>, health: &Health, flush: &dyn Fn() -> Result<(), String>) {
    loop {
        let first = if health.flush_failed() {
            // Nobody writes after a failure, so nobody asks: find out here when the disk is well again.
            match requests.recv_timeout(RETRY) {
                Ok(waiter) => Some(waiter),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        } else {
            match requests.recv() {
                Ok(waiter) => Some(waiter),
                Err(_) => break,
            }
        };
        let waiters: Vec<Waiter> = first.into_iter().chain(requests.try_iter()).collect();
        let result = flush();
        if let Err(why) = &result {
            tracing::error!(why, "the database can't be flushed; writes are refused until it can");
        }
        health.flushed(&result);
        for waiter in waiters {
            // Whoever no longer waits needs no answer.
            drop(waiter.answer.send(result.clone()));
        }
    }
    if let Err(why) = flush() {
        tracing::error!(why, "the last flush of the database failed");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_flush_serves_all_who_wait() {
        let health = Arc::new(Health::default());
        let (count, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(2)));
        let flusher = Flusher::start(Arc::clone(&health), {
            let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
            move || {
                if count.fetch_add(1, Ordering::SeqCst) == 0 {
                    gate.wait();
                }
                Ok(())
            }
        })
        .unwrap();
        let first = flusher.request();
        while count.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        // The first flush runs and waits at the gate; these all wait for the second.
        let rest: Vec<_> = (0..100).map(|_| flusher.request()).collect();
        gate.wait();
        first.wait().await.unwrap();
        for flushed in rest {
            flushed.wait().await.unwrap();
        }
        assert_eq!(count.load(Ordering::SeqCst), 2);
        drop(flusher);
        assert_eq!(count.load(Ordering::SeqCst), 3, "the end flushes once more");
    }

    #[tokio::test]
    async fn a_failure_reaches_all_who_wait_and_heals_by_itself() {
        let health = Arc::new(Health::default());
        let full = Arc::new(AtomicBool::new(true));
        let flusher = Flusher::start(Arc::clone(&health), {
            let full = Arc::clone(&full);
            move || if full.load(Ordering::SeqCst) { Err("no space".to_owned()) } else { Ok(()) }
        })
        .unwrap();
        assert!(matches!(flusher.request().wait().await, Err(Error::Unavailable(why)) if why.contains("no space")));
        assert!(health.check_writable().is_err());
        full.store(false, Ordering::SeqCst);
        while health.check_writable().is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn a_dead_thread_is_an_error() {
        let flusher = Flusher::start(Arc::default(), || panic!("on purpose")).unwrap();
        assert!(flusher.request().wait().await.is_err());
        assert!(flusher.request().wait().await.is_err());
    }
}
