//! Workers: threads with a runtime each, so that a connection lives and dies on one core and its upstream connections
//! are at hand without a lock. Each listener is accepted on by one of them, which hands a new connection to the worker with
//! the fewest, so that a few long HTTP/2 connections from an ingress don't all land on one core. A thread of its own for
//! accepting would cost each connection a change of threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Error;
use super::connection::{self, Settings};
use super::gateway::Gateway;
use super::listen::{Accepted, Listener};
use super::places::Places;
use super::serving::{Current, Everywhere};
use crate::proxy::Proxy;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// The threads.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    tasks: Tasks,
}

/// Workers that take connections.
#[derive(Debug)]
pub struct Started {
    /// Who takes them. The threads end when the last clone is gone and their connections are through.
    pub workers: Arc<Workers>,
    /// What they serve with.
    pub everywhere: Everywhere,
    /// To be joined.
    pub threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Worker {
    queue: mpsc::UnboundedSender<Queued>,
    connections: Arc<AtomicUsize>,
    runtime: Handle,
}

/// A connection on its way, counted so that draining waits for it.
type Queued = (Accepted, Load, TaskTrackerToken);

/// Counts among its worker's connections until it is dropped, also by a panic.
struct Load(Arc<AtomicUsize>);

impl Load {
    fn on(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As many as the cgroup has CPUs, at most 4: a sidecar shares its machine with the application.
pub fn count(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4)),
        count => count,
    }
}

impl Workers {
    /// Starts `count` threads. They end when every clone of `tasks` has been told to stop and their connections are
    /// through; join them with the handles. What they serve with can be swapped.
    pub fn start(
        count: usize,
        gateway: &Arc<Gateway>,
        proxy: &Arc<Proxy>,
        settings: &Arc<Settings>,
        tasks: &Tasks,
    ) -> Result<Started, Error> {
        let mut workers = Vec::with_capacity(count);
        let mut everywhere = Vec::with_capacity(count);
        let mut handles = Vec::with_capacity(count);
        for index in 0..count {
            let (queue, incoming) = mpsc::unbounded_channel();
            let connections = Arc::new(AtomicUsize::new(0));
            let current = Current::new(gateway, proxy, settings);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Worker)?;
            workers.push(Worker { queue, connections, runtime: runtime.handle().clone() });
            let serving = Incoming { queue: incoming, current: current.clone(), closed: settings.closed.clone(), tasks: tasks.clone() };
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            let handle = thread.spawn(move || runtime.block_on(serving.serve())).map_err(Error::Worker)?;
            everywhere.push(current);
            handles.push(handle);
        }
        Ok(Started { workers: Arc::new(Self { workers, tasks: tasks.clone() }), everywhere: Everywhere(everywhere), threads: handles })
    }

    /// Accepts on `listeners`, each on the runtime of one worker in turn, until `accepting` stops.
    ///
    /// # Errors
    ///
    /// One of them can't be watched.
    pub fn accept(
        self: &Arc<Self>,
        listeners: Vec<Listener>,
        places: &Places,
        metrics: &Arc<Metrics>,
        accepting: &Tasks,
    ) -> Result<(), Error> {
        for (listener, worker) in listeners.into_iter().zip(self.workers.iter().cycle()) {
            // What is watched and spawned meanwhile is that runtime's.
            let _there = worker.runtime.enter();
            let acceptor = listener.watch()?;
            tracing::info!(address = %acceptor.address(), "listening");
            accepting.spawn(acceptor.run(Arc::clone(self), places.clone(), Arc::clone(metrics), accepting.clone()));
        }
        Ok(())
    }

    /// Hands a connection to the worker with the fewest.
    pub fn take(&self, accepted: Accepted) {
        let least = self.workers.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        if let Some(worker) = least
            && worker.queue.send((accepted, Load::on(&worker.connections), self.tasks.token())).is_err()
        {
            tracing::error!("a worker has ended: the connection is dropped");
        }
    }
}

/// A worker's connections, as they come.
struct Incoming {
    queue: mpsc::UnboundedReceiver<Queued>,
    current: Current,
    closed: CancellationToken,
    tasks: Tasks,
}

impl Incoming {
    async fn serve(mut self) {
        // Ends when the last sender is gone, which is when nothing accepts any more, or when nobody waits for that.
        while let Some(Some((accepted, load, token))) = self.closed.run_until_cancelled(self.queue.recv()).await {
            let serving = connection::serve(accepted, self.current.clone(), self.tasks.clone());
            self.tasks.spawn(async move {
                serving.await;
                drop(load);
            });
            drop(token);
        }
        // The other tasks of this runtime go on until all are through or the grace is over.
        self.closed.cancelled().await;
    }
}
