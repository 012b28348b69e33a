//! Several sidecars on one state, started at once: on PostgreSQL, each with connections of its own, or on one sled that is
//! shared within the process, as `NULLPASS_TEST_BACKEND` says.

use std::sync::Arc;
use std::time::Duration;

use nullpass::clock::{Clock, ManualClock};
use nullpass::config;
use nullpass::store::Store;
use nullpass::store::postgres::PostgresStore;
use nullpass::store::sled::SledStore;
use nullpass::tasks::Tasks;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::shared::{Hub, Member};
use super::{START, Server};

/// What is ended on one is refused by all within this time.
pub(crate) const EVERYWHERE: Duration = Duration::from_secs(2);

pub(crate) struct Replicas {
    pub(crate) servers: Vec<Arc<Server>>,
    /// The store as each of them has it.
    pub(crate) members: Vec<Arc<Member>>,
    place: Place,
    time: Clock,
    clock: ManualClock,
    _folder: TempDir,
}

/// Where the state is.
enum Place {
    Sled(Arc<dyn Store>, Hub),
    Postgres(Box<config::Postgres>),
}

impl Place {
    async fn new(folder: &TempDir) -> Self {
        match super::backend::storage(folder.path()).postgres {
            Some(settings) => Self::Postgres(Box::new(settings)),
            None => {
                let path = folder.path().join("shared");
                let inner = Tasks::new().spawn_blocking(move || SledStore::open(&path)).await.unwrap().unwrap();
                Self::Sled(Arc::new(inner), Hub::new(4096))
            }
        }
    }

    async fn member(&self) -> Arc<Member> {
        Arc::new(match self {
            Self::Sled(store, hub) => Member::new(Arc::clone(store), Some(hub)),
            Self::Postgres(settings) => Member::new(Arc::new(PostgresStore::open(settings, &Tasks::new()).await.unwrap()), None),
        })
    }
}

impl Replicas {
    /// Three of them.
    pub(crate) async fn start(toml: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let (time, clock) = Clock::manual(START);
        let place = Place::new(&folder).await;
        let (one, two, three) = tokio::join!(place.member(), place.member(), place.member());
        let members = vec![one, two, three];
        let mut replicas = Self { servers: Vec::new(), members: members.clone(), place, time, clock, _folder: folder };
        let starting: JoinSet<(usize, Server)> = members
            .iter()
            .enumerate()
            .map(|(place, member)| {
                let (toml, time, clock) = (toml.to_owned(), replicas.time.clone(), replicas.clock.clone());
                let store: Arc<dyn Store> = Arc::<Member>::clone(member);
                async move { (place, Server::start_beside(&toml, &time, &clock, store).await) }
            })
            .collect();
        let mut started = starting.join_all().await;
        started.sort_by_key(|(place, _)| *place);
        replicas.servers = started.into_iter().map(|(_, server)| Arc::new(server)).collect();
        replicas
    }

    /// One more, which may be configured otherwise.
    pub(crate) async fn add(&mut self, toml: &str) {
        let member = self.place.member().await;
        let store: Arc<dyn Store> = Arc::<Member>::clone(&member);
        self.servers.push(Arc::new(Server::start_beside(toml, &self.time, &self.clock, store).await));
        self.members.push(member);
    }

    /// The store itself.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.members[0].inner()
    }

    pub(crate) fn wait(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// The status of a protected path everywhere.
    pub(crate) async fn statuses(&self, token: &str) -> Vec<u16> {
        let mut statuses = Vec::new();
        for server in &self.servers {
            statuses.push(server.status(token).await);
        }
        statuses
    }

    /// Fails unless a protected path has this status everywhere soon.
    pub(crate) async fn all_say(&self, token: &str, status: u16) {
        soon(&format!("{status} everywhere"), async || self.statuses(token).await.iter().all(|said| *said == status)).await;
    }
}

/// Fails unless it holds within the time that a revocation may take.
pub(crate) async fn soon(what: &str, holds: impl AsyncFn() -> bool) {
    let from = Instant::now();
    loop {
        let asked = from.elapsed();
        if holds().await {
            return;
        }
        assert!(asked < EVERYWHERE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
