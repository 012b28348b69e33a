//! Hearing what other processes change: notifications on a connection of its own, which usually come at once, and a look
//! at the table of changes once a second, for what was not heard. A transaction that began before a look and ended after
//! it is not missed: the next look asks for all transactions that were not over at the last one.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::{AsyncMessage, Client, Statement};

use super::breaker::{rest, some_of};
use super::changes::{self, KEPT_SECS};
use super::connect::Connector;
use super::explain;
use super::presence::{self, Held};
use crate::model::Digest;
use crate::store::{Error, Follow, News};

/// How often the table is looked at, at least.
const POLL: Duration = Duration::from_secs(1);

/// How long a look may take.
const ANSWER: Duration = Duration::from_secs(3);

/// The first attempt at another connection comes within this time.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Notifications that wait to be read. When there are more they are dropped: the table has them as well.
const HEARD: usize = 10_000;

/// Follows one schema.
pub(super) struct Follower {
    connector: Connector,
    listening: Option<Listening>,
    /// How far it has looked; `None`: never.
    place: Option<Place>,
    /// The changes that were told already and that the next look may find again.
    told: BTreeSet<i64>,
    /// How often in a row there was no connection, and when to try again.
    failures: u32,
    retry_at: Instant,
    /// The storage keys that this process has.
    held: Held,
}

/// A connection that listens.
struct Listening {
    client: Client,
    look: Statement,
    _task: Ending,
    heard: mpsc::Receiver<String>,
    look_at: Instant,
    /// The storage keys that others were told of.
    said: Vec<Digest>,
}

/// A task that ends with this.
struct Ending(JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How far somebody has looked.
#[derive(Clone, Debug)]
struct Place {
    /// Of which server, since when: numbers of transactions of another one mean nothing.
    server: String,
    /// Which transactions were over, as the server writes it (`pg_snapshot`).
    seen: String,
    /// The server's clock, in seconds since 1970.
    at: f64,
}

impl Place {
    /// Whether the table, seen from here, may not say all that happened since `before`. Another server may lack what this
    /// process knows, and what is older than the table goes back is not there any more.
    fn may_lack_what_came_after(&self, before: &Self) -> bool {
        self.server != before.server || self.at - before.at > KEPT_SECS / 2.0
    }
}

/// The changes of exactly the transactions that were not over at `$1`, and how far that goes: not of all since the oldest
/// of them, which somebody else's may keep open for hours.
const LOOK: &str = "SELECT pg_current_snapshot()::text, extract(epoch FROM clock_timestamp())::float8, pg_is_in_recovery(), seq, kind, id \
                    FROM (SELECT 1) AS always LEFT JOIN ( \
                    SELECT seq, kind, id FROM changes WHERE tx >= pg_snapshot_xmax($1::text::pg_snapshot) UNION ALL \
                    SELECT seq, kind, id FROM changes WHERE tx = ANY(ARRAY(SELECT pg_snapshot_xip($1::text::pg_snapshot)))) \
                    AS those ON true ORDER BY seq";

/// When all is over: no transaction is ever numbered as high.
const THE_END: &str = "18446744073709551615:18446744073709551615:";

impl Listening {
    /// All changes since it was looked before, and how far that goes.
    async fn look(&self, server: String, since: Option<&str>) -> Result<(Place, Vec<(i64, News)>), Error> {
        let asked = async {
            let since = since.unwrap_or(THE_END);
            let rows = self.client.query(&self.look, &[&since]).await?;
            let mut found = Vec::new();
            let mut place = Place { server, seen: since.to_owned(), at: 0.0 };
            let mut is_standby = false;
            for row in &rows {
                place.seen = row.try_get(0)?;
                place.at = row.try_get(1)?;
                is_standby |= row.try_get::<_, bool>(2)?;
                found.extend(changes::of_row(row, 3)?);
            }
            Ok::<_, tokio_postgres::Error>((!is_standby).then_some((place, found)))
        };
        match timeout(ANSWER, asked).await {
            Ok(Ok(Some(looked))) => Ok(looked),
            // It hears nothing and lags behind: the primary is elsewhere.
            Ok(Ok(None)) => Err(Error::Unavailable("the server that was followed is a standby now".to_owned())),
            Ok(Err(error)) => Err(explain::running(&error)),
            Err(_) => Err(silent()),
        }
    }
}

impl Follower {
    /// From now on.
    pub(super) async fn start(connector: Connector, held: Held) -> Result<Self, Error> {
        let (told, retry_at) = (BTreeSet::new(), Instant::now());
        let mut follower = Self { connector, listening: None, place: None, told, failures: 0, retry_at, held };
        follower.listen().await?;
        Ok(follower)
    }

    /// Connects, listens, and looks for what happened meanwhile.
    async fn listen(&mut self) -> Result<Vec<News>, Error> {
        sleep_until(self.retry_at).await;
        // When it fails, or when nobody waits for it to the end.
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Instant::now() + rest(self.failures - 1);
        let settings = self.connector.settings();
        let (say, heard) = mpsc::channel(HEARD);
        let hear = move |message| {
            if let AsyncMessage::Notification(notification) = message {
                drop(say.try_send(notification.payload().to_owned()));
            }
        };
        let (client, task) = self.connector.connect(hear).await.map_err(|failed| failed.explain(settings))?;
        // Ended when this is given up.
        let task = Ending(task);
        let said = self.held.get();
        let asked = async {
            // First this, so that nothing falls between it and the look.
            let (channel, present) = (changes::channel(&settings.schema), presence::of_followers(&settings.schema));
            client.batch_execute(&format!("LISTEN \"{channel}\"; SELECT pg_try_advisory_lock_shared({present})")).await?;
            presence::say(&client, &settings.schema, &[], &said).await?;
            Ok((identity(&client).await?, client.prepare(LOOK).await?))
        };
        let (server, statement) = match timeout(ANSWER, asked).await {
            Ok(asked) => asked.map_err(|error| explain::running(&error))?,
            Err(_) => return Err(silent()),
        };
        let listening = Listening { client, look: statement, _task: task, heard, look_at: Instant::now(), said };
        let news = match &self.place {
            None => {
                let (place, _) = listening.look(server, None).await?;
                self.place = Some(place);
                Vec::new()
            }
            Some(before) => {
                let (place, found) = listening.look(server, Some(&before.seen)).await?;
                let missed = place.may_lack_what_came_after(before);
                let news = self.note(place, found);
                if missed { vec![News::Everything] } else { news }
            }
        };
        self.listening = Some(listening);
        self.failures = 0;
        Ok(news)
    }

    /// Looks at the table.
    async fn look(&mut self) -> Result<Vec<News>, Error> {
        let (Some(listening), Some(place)) = (&mut self.listening, &self.place) else { return Ok(Vec::new()) };
        listening.look_at = Instant::now() + POLL - some_of(POLL / 5);
        let held = self.held.get();
        let looked = async {
            let looked = listening.look(place.server.clone(), Some(&place.seen)).await?;
            if held != listening.said {
                let said = presence::say(&listening.client, &self.connector.settings().schema, &listening.said, &held);
                timeout(ANSWER, said).await.map_err(|_| silent())?.map_err(|error| explain::running(&error))?;
            }
            Ok(looked)
        };
        match looked.await {
            Ok((place, found)) => {
                listening.said = held;
                Ok(self.note(place, found))
            }
            Err(error) => {
                self.listening = None;
                Err(error)
            }
        }
    }

    /// What of the found is new.
    fn note(&mut self, place: Place, found: Vec<(i64, News)>) -> Vec<News> {
        let before = std::mem::replace(&mut self.told, found.iter().map(|(seq, _)| *seq).collect());
        self.place = Some(place);
        found.into_iter().filter(|(seq, _)| !before.contains(seq)).map(|(_, news)| news).collect()
    }

    /// What of a notification is new.
    fn hear(&mut self, payload: &str) -> Vec<News> {
        changes::of_notification(payload).filter(|(seq, _)| self.told.insert(*seq)).map(|(_, news)| news).collect()
    }
}

#[async_trait]
impl Follow for Follower {
    async fn next(&mut self) -> Result<Vec<News>, Error> {
        loop {
            let Some(listening) = &mut self.listening else { return self.listen().await };
            tokio::select! {
                biased;
                () = sleep_until(listening.look_at) => return self.look().await,
                heard = listening.heard.recv() => match heard {
                    Some(payload) => {
                        let news = self.hear(&payload);
                        if !news.is_empty() {
                            return Ok(news);
                        }
                    }
                    None => {
                        // The connection broke, and perhaps everybody's.
                        self.listening = None;
                        self.retry_at = Instant::now() + some_of(FIRST_RETRY);
                    }
                },
            }
        }
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("connector", &self.connector).field("place", &self.place).finish_non_exhaustive()
    }
}

/// Which server it is. After a failover it is another one, or the same with another history (timeline); where neither may
/// be read, the time since it runs stands in for both.
async fn identity(client: &Client) -> Result<String, tokio_postgres::Error> {
    let history = "SELECT system_identifier || '.' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) FROM pg_control_system()";
    let row = match client.query_one(history, &[]).await {
        Err(error) if error.as_db_error().is_some() => client.query_one("SELECT pg_postmaster_start_time()::text", &[]).await?,
        other => other?,
    };
    row.try_get(0)
}

fn silent() -> Error {
    Error::Unavailable(format!("no answer within {} s to what others changed", ANSWER.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::postgres::{PostgresStore, server};
    use crate::tasks::Tasks;

    /// Somebody else's transaction is open all the while, as one of another program may be for hours.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_seen_is_not_read_again_and_again() {
        let settings = crate::config::Postgres { schema: server::schema(), ..crate::config::Postgres::parse(&server::url()).unwrap() };
        let store = PostgresStore::open(&settings, &Tasks::new()).await.unwrap();
        let connector = store.pool().connector();
        let (long, _task) = connector.connect(|_| {}).await.unwrap();
        let (other, _task) = connector.connect(|_| {}).await.unwrap();
        let change = "INSERT INTO changes (kind, id) SELECT 'u', gen_random_uuid() FROM generate_series(1, 5)";
        long.batch_execute(&format!("BEGIN; {change}")).await.unwrap();
        let mut follower = Follower::start(connector.clone(), Held::default()).await.unwrap();
        other.batch_execute(change).await.unwrap();
        let mut found = async || {
            let (listening, place) = (follower.listening.as_ref().unwrap(), follower.place.clone().unwrap());
            let (place, found) = listening.look(place.server.clone(), Some(&place.seen)).await.unwrap();
            follower.place = Some(place);
            found.len()
        };
        assert_eq!((found().await, found().await), (5, 0));
        long.batch_execute("COMMIT").await.unwrap();
        assert_eq!((found().await, found().await), (5, 0));
    }

    #[test]
    fn what_can_not_be_caught_up_is_known() {
        let before = Place { server: "a.00000001".to_owned(), seen: "7:7:".to_owned(), at: 1000.0 };
        let after = |server: &str, at: f64| Place { server: server.to_owned(), seen: "9:9:".to_owned(), at };
        assert!(!after("a.00000001", 1000.0 + KEPT_SECS / 2.0).may_lack_what_came_after(&before));
        assert!(after("a.00000001", 1001.0 + KEPT_SECS / 2.0).may_lack_what_came_after(&before));
        assert!(after("a.00000002", 1001.0).may_lack_what_came_after(&before));
        assert!(after("b.00000001", 1001.0).may_lack_what_came_after(&before));
    }
}
