//! Long computations, each on a thread of its own that stands back: requests which are only passed on must not wait for
//! somebody's password. A pool's threads could not be used for that: who has stood back may not step forward again
//! without a privilege (setpriority(2)). Whoever calls bounds how many there are; starting one costs some 50 µs.

use std::future::Future;
use std::thread;

use tokio::sync::oneshot;

/// How far those stand back that are [`Behind`](Place::Behind) (nice(1), 0 to 19). Each gets a third of what a thread does that
/// does not: where everything else wants the cores, signing in gets slower, and not impossible.
const NICENESS: i32 = 5;

/// How far work stands back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// It gets a smaller share of the cores, and keeps one to the end of a time slice (some milliseconds) once it has it.
    Behind,
    /// It gets what nobody else wants, and gives a core back the moment somebody does (`SCHED_IDLE`, sched(7)).
    Last,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The system starts no more threads.
    #[error("no thread could be started: {0}")]
    Start(#[source] std::io::Error),
    /// It panicked.
    #[error("the work broke off")]
    BrokeOff,
}

/// Runs `work` on a thread of this name, at once; it goes on when nobody waits any more.
pub(super) fn run<T: Send + 'static>(
    name: &str,
    place: Place,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, Error>> {
    let (sender, receiver) = oneshot::channel();
    let started = thread::Builder::new().name(name.to_owned()).spawn(move || {
        stand_back(place);
        let _nobody_waits = sender.send(work());
    });
    async move {
        started.map_err(Error::Start)?;
        receiver.await.map_err(|_| Error::BrokeOff)
    }
}

/// Lowers this thread's priority. On Linux that of a process is each thread's own (setpriority(2), "C library/kernel
/// differences"); elsewhere it would be everybody's.
fn stand_back(place: Place) {
    #[cfg(target_os = "linux")]
    {
        use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};
        // Also for the last: where a container may not choose a policy, it still has its niceness.
        // Never forward: root may, and a whole process may have been told to stand back further.
        let here = rustix::process::getpriority_process(None).unwrap_or(0);
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS.max(here)) {
            tracing::debug!(%error, "a thread could not stand back");
        }
        if place == Place::Last {
            let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
            let this = thread_priority::thread_native_id();
            if let Err(error) = thread_priority::set_thread_priority_and_policy(this, ThreadPriority::Min, idle) {
                tracing::debug!(?error, "a thread could not be put last");
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _everybody_would = place;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_aside() {
        let here = thread::current().id();
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let (there, behind) = run("test", Place::Behind, move || (thread::current().id(), nice())).await.unwrap();
        assert_ne!(here, there);
        assert_eq!(nice(), before, "nobody else stands back");
        assert_eq!(behind, NICENESS.max(before));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_last_gets_what_nobody_wants() {
        use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy};
        let policy = |place| run("test", place, || thread_schedule_policy().unwrap());
        assert_eq!(policy(Place::Last).await.unwrap(), ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle));
        assert_eq!(policy(Place::Behind).await.unwrap(), thread_schedule_policy().unwrap(), "as it was");
    }

    #[tokio::test]
    async fn what_breaks_off_has_no_result() {
        assert!(matches!(run("test", Place::Behind, || panic!("on purpose")).await, Err::<(), _>(Error::BrokeOff)));
    }
}
