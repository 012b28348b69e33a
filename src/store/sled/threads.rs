//! The threads that the database is used on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::replaced;
use crate::store::Error;

/// A few threads that share the work which is given to them, in the order in which it came. They end when the last clone is
/// dropped, after what waits by then.
///
/// The database has threads of its own, and always the same few: glibc keeps memory apart for each thread that has ever
/// asked for some, and sled asks for half a mebibyte with each segment of its log. On the runtime's blocking threads, which
/// take turns, the process grows for hours.
#[derive(Clone, Debug)]
pub(super) struct Threads(Sender<Job>);

type Job = Box<dyn FnOnce() + Send>;

impl Threads {
    /// Starts `count` threads of this name.
    pub(super) fn start(name: &str, count: usize) -> Result<Self, Error> {
        let (queue, jobs) = channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..count {
            let jobs = Arc::clone(&jobs);
            let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || work_off(&jobs));
            started.map_err(|error| Error::Unavailable(format!("can't start the thread {name}: {error}")))?;
        }
        Ok(Self(queue))
    }

    /// Does `work` on one of them, to its end also when the caller goes away meanwhile. `None`: it panicked.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (answer, done) = oneshot::channel();
        let job = move || {
            if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
                // Whoever no longer waits needs no answer.
                drop(answer.send(result));
            }
        };
        self.0.send(Box::new(job)).ok()?;
        done.await.ok()
    }
}

fn work_off(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        job();
        replaced::free();
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};
    use std::time::Duration;

    use super::*;

    fn here() -> (Option<String>, ThreadId) {
        (thread::current().name().map(str::to_owned), thread::current().id())
    }

    #[tokio::test]
    async fn work_that_panics_costs_only_itself() {
        let threads = Threads::start("test", 1).unwrap();
        let before = threads.run(here).await.unwrap();
        assert_eq!(threads.run(|| -> u8 { panic!("on purpose") }).await, None);
        assert_eq!(threads.run(here).await.as_ref(), Some(&before));
        assert_eq!(before.0.as_deref(), Some("test"));
    }

    #[tokio::test]
    async fn one_that_waits_does_not_hold_up_the_others() {
        let threads = Threads::start("test", 2).unwrap();
        let (go, wait) = channel::<()>();
        let slow = threads.run(move || wait.recv().is_ok());
        let quick = async {
            for _ in 0..100 {
                threads.run(|| ()).await.unwrap();
            }
            go.send(()).unwrap();
        };
        assert_eq!(tokio::join!(slow, quick), (Some(true), ()));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_done_all_the_same() {
        let threads = Threads::start("test", 1).unwrap();
        let (tell, told) = channel();
        let (go, wait) = channel::<()>();
        let forgotten = threads.run(move || {
            wait.recv().unwrap();
            tell.send(()).unwrap();
        });
        tokio::time::timeout(Duration::from_millis(1), forgotten).await.unwrap_err();
        drop(threads);
        go.send(()).unwrap();
        assert!(told.recv().is_ok());
    }
}
