//! Bringing the schema to what this release needs: numbered scripts, applied in order in one transaction by whichever
//! process comes first, and a refusal of everything that can't be brought there.

use sha2::{Digest as _, Sha256};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient};

use super::connect::Connector;
use super::explain;
use crate::config::Postgres;
use crate::store::Error;
use crate::tasks::Tasks;

/// The oldest major version that has all that is used: 13 brought transaction numbers that never repeat.
const OLDEST: u32 = 13;

/// How long to wait for another process that does the same, and how long a script may take, in seconds.
const PATIENCE_SECS: u32 = 300;

/// Every script, in order; what was released is never changed.
const SCRIPTS: &[(u32, &str, &str)] =
    &[(1, "state", include_str!("schema/0001_state.sql")), (2, "audit_chains", include_str!("schema/0002_audit_chains.sql"))];

/// What the store reads and writes.
const TABLES: &[&str] = &[
    "users",
    "retired_emails",
    "sessions",
    "api_tokens",
    "totp_steps",
    "spent",
    "locks",
    "signing_keys",
    "meta",
    "audit",
    "audit_chains",
    "changes",
    "alive",
];

/// A script that is still to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its number; 0 makes the schema itself.
    pub number: u32,
    /// What it is for.
    pub name: &'static str,
    /// Exactly what is sent to the server.
    pub sql: String,
}

/// What has to be done to the database of `settings` before this release can use it, without doing it.
///
/// Errors as for [`super::PostgresStore::open`].
pub(super) async fn pending(settings: &Postgres) -> Result<Vec<Migration>, Error> {
    let connector = Connector::new(settings, &Tasks::new())?;
    let (client, _task) = connector.connect(|_| {}).await.map_err(|failed| failed.explain(settings))?;
    check_version(&client).await?;
    let found = found(&client, settings).await.map_err(|error| explained(&error, settings))?;
    outstanding(&found, settings)
}

/// Applies what is pending and makes sure that the role may use the result.
pub(super) async fn bring_up_to_date(client: &mut Client, settings: &Postgres) -> Result<(), Error> {
    check_version(client).await?;
    let state = found(client, settings).await.map_err(|error| explained(&error, settings))?;
    if !outstanding(&state, settings)?.is_empty() {
        apply(client, settings).await?;
    }
    check_rights(client, settings).await.map_err(|error| explained(&error, settings))?
}

async fn apply(client: &mut Client, settings: &Postgres) -> Result<(), Error> {
    let explained = |error: tokio_postgres::Error| explained(&error, settings);
    let transaction = client.transaction().await.map_err(explained)?;
    let patience = format!("SET LOCAL lock_timeout = '{PATIENCE_SECS}s'; SET LOCAL statement_timeout = '{PATIENCE_SECS}s'");
    transaction.batch_execute(&patience).await.map_err(explained)?;
    // Another process may be here at the same moment: then this one waits, and looks again.
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&lock_key(&settings.schema)]).await.map_err(explained)?;
    let state = found(&transaction, settings).await.map_err(explained)?;
    for migration in outstanding(&state, settings)? {
        tracing::info!(number = migration.number, name = migration.name, schema = settings.schema, "changing the database's schema");
        transaction.batch_execute(&migration.sql).await.map_err(explained)?;
    }
    transaction.commit().await.map_err(explained)
}

/// What there is in the database.
enum Found {
    /// No such schema.
    Nothing,
    /// A schema with nothing in it, made for us.
    Empty,
    /// What we made, up to this number.
    Ours(u32),
    /// Somebody else's.
    Foreign(String),
}

async fn found<C: GenericClient>(client: &C, settings: &Postgres) -> Result<Found, tokio_postgres::Error> {
    let sql = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = $1), \
               (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 'nullpass_migrations'), \
               (SELECT min(c.relname::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S'))";
    let row = client.query_one(sql, &[&settings.schema]).await?;
    let (schemas, marks, other): (i64, i64, Option<String>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(match (schemas, marks, other) {
        (0, _, _) => Found::Nothing,
        (_, 0, None) => Found::Empty,
        (_, 0, Some(other)) => Found::Foreign(format!("it has {other:?} and no table \"nullpass_migrations\"")),
        _ => {
            let sql = format!("SELECT coalesce(max(number), 0) FROM \"{}\".nullpass_migrations", settings.schema);
            let newest: i32 = client.query_one(sql.as_str(), &[]).await?.try_get(0)?;
            Found::Ours(u32::try_from(newest).unwrap_or(0))
        }
    })
}

fn outstanding(found: &Found, settings: &Postgres) -> Result<Vec<Migration>, Error> {
    let schema = &settings.schema;
    let known = SCRIPTS.last().map_or(0, |(number, _, _)| *number);
    let applied = match found {
        Found::Foreign(why) => return Err(Error::Foreign { schema: schema.clone(), why: why.clone() }),
        Found::Ours(found) if *found > known => return Err(Error::Newer { found: *found, known }),
        Found::Ours(found) => *found,
        Found::Nothing | Found::Empty => 0,
    };
    let make = if matches!(found, Found::Nothing) { format!("CREATE SCHEMA \"{schema}\";\n") } else { String::new() };
    let first = format!(
        "{make}CREATE TABLE \"{schema}\".nullpass_migrations \
         (number int4 PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL DEFAULT now());\n"
    );
    let first = Migration { number: 0, name: "schema", sql: first };
    let scripts = SCRIPTS.iter().filter(|(number, _, _)| *number > applied).map(|(number, name, script)| Migration {
        number: *number,
        name,
        sql: format!(
            "SET LOCAL search_path = \"{schema}\", pg_temp;\n{script}INSERT INTO nullpass_migrations (number, name) VALUES ({number}, '{name}');\n"
        ),
    });
    Ok(match found {
        Found::Ours(_) => scripts.collect(),
        Found::Nothing | Found::Empty | Found::Foreign(_) => std::iter::once(first).chain(scripts).collect(),
    })
}

async fn check_version(client: &Client) -> Result<(), Error> {
    let sql = "SELECT current_setting('server_version'), current_setting('server_version_num')::int4";
    let asked = async {
        let row = client.query_one(sql, &[]).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    };
    let (text, number) = asked.await.map_err(|error| explain::running(&error))?;
    verdict(text, number)
}

/// Versions count as 130004 for 13.4.
fn verdict(found: String, number: i32) -> Result<(), Error> {
    let new_enough = u32::try_from(number).is_ok_and(|number| number / 10_000 >= OLDEST);
    if new_enough { Ok(()) } else { Err(Error::Outdated { found, needed: OLDEST }) }
}

/// What is missing is better said at start than at the first sign-in.
async fn check_rights(client: &Client, settings: &Postgres) -> Result<Result<(), Error>, tokio_postgres::Error> {
    let sql = "SELECT string_agg(name, ', ' ORDER BY name) FROM unnest($2::text[]) AS name \
               WHERE NOT has_schema_privilege($1::text, 'USAGE') \
               OR NOT coalesce((SELECT has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') \
                   AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE') \
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = name), false)";
    let missing: Option<String> = client.query_one(sql, &[&settings.schema, &TABLES]).await?.try_get(0)?;
    Ok(match missing {
        None => Ok(()),
        Some(tables) => Err(Error::Rights(format!(
            "{}: SELECT, INSERT, UPDATE and DELETE are needed on all tables of the schema {:?}, and some are missing on {tables}",
            explain::place(settings),
            settings.schema
        ))),
    })
}

fn explained(error: &tokio_postgres::Error, settings: &Postgres) -> Error {
    if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        let Postgres { schema, user, .. } = settings;
        return Error::Rights(format!(
            "{}: {}. Let an administrator run CREATE SCHEMA \"{schema}\" AUTHORIZATION \"{user}\", or give the role the right to make and use it",
            explain::place(settings),
            explain::chain(error)
        ));
    }
    explain::running(error)
}

/// One number a schema, so that two applications in one database do not wait for each other.
fn lock_key(schema: &str) -> i64 {
    let digest: [u8; 32] = Sha256::digest(format!("nullpass migrations of {schema}")).into();
    digest.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Postgres {
        Postgres::parse("postgres://me@localhost").unwrap()
    }

    #[test]
    fn scripts_are_numbered_without_a_gap_and_say_nothing_that_a_transaction_cannot() {
        for ((number, name, script), expected) in SCRIPTS.iter().zip(1..) {
            assert_eq!(*number, expected);
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert!(script.ends_with(";\n") && !script.contains("CONCURRENTLY") && !script.contains("COMMIT"), "{name}");
        }
        for table in TABLES {
            assert!(SCRIPTS.iter().any(|(_, _, script)| script.contains(&format!("CREATE TABLE {table} ("))), "{table}");
        }
    }

    #[test]
    fn what_is_pending_follows_from_what_is_there() {
        let numbers = |found: &Found| outstanding(found, &settings()).unwrap().iter().map(|one| one.number).collect::<Vec<_>>();
        let newest = SCRIPTS.last().unwrap().0;
        assert_eq!(numbers(&Found::Nothing), (0..=newest).collect::<Vec<_>>());
        assert_eq!(numbers(&Found::Empty), (0..=newest).collect::<Vec<_>>());
        assert_eq!(numbers(&Found::Ours(newest)), [0; 0]);
        assert!(outstanding(&Found::Nothing, &settings()).unwrap()[0].sql.contains("CREATE SCHEMA \"nullpass\""));
        assert!(!outstanding(&Found::Empty, &settings()).unwrap()[0].sql.contains("CREATE SCHEMA"));
        assert!(matches!(outstanding(&Found::Ours(newest + 1), &settings()), Err(Error::Newer { .. })));
        assert!(matches!(outstanding(&Found::Foreign(String::new()), &settings()), Err(Error::Foreign { .. })));
    }

    #[test]
    fn an_old_server_is_refused() {
        assert!(verdict("13.0".to_owned(), 130_000).is_ok());
        let error = verdict("12.22 (Debian)".to_owned(), 120_022).unwrap_err();
        assert_eq!(error.to_string(), "the server is version 12.22 (Debian); it must be 13 or newer");
    }
}
