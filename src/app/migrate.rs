//! Both ends of a migration: opened, and shown to be sealed with the key that the configuration gives, before anything
//! is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::open::{MASTER_KEY_FILE, given_keys};
use crate::auth::{self, vault};
use crate::config::{Backend, Config, Postgres};
use crate::crypto::seal::{self, HeldKeys};
use crate::store;
use crate::store::postgres::{Migration, PostgresStore};
use crate::store::sled::SledStore;
use crate::store::transfer::Transfer;
use crate::tasks::Tasks;

/// Both ends. The source is read and its key checked before the target is touched.
pub async fn open(config: &Config, from: Backend, to: Backend) -> Result<(Arc<dyn Transfer>, Arc<dyn Transfer>), Error> {
    let source = open_source(config, from).await?;
    Ok((source, open_end(config, to).await?))
}

/// The source, if it is sealed with the key that the configuration gives, or with the one in the data folder.
pub async fn open_source(config: &Config, from: Backend) -> Result<Arc<dyn Transfer>, Error> {
    // Opening it would make it.
    match from {
        Backend::Sled => {
            let path = &config.storage.path;
            if !path.join("db").is_file() {
                return Err(Error::NoFolder(path.clone()));
            }
        }
        Backend::Postgres => {
            if !pending(config, from).await?.is_empty() {
                return Err(Error::NoSchema(postgres(config)?.schema.clone()));
            }
        }
    }
    let source = open_end(config, from).await?;
    check_key(config, &*source).await?;
    Ok(source)
}

/// What opening this end would change in its schema.
pub async fn pending(config: &Config, to: Backend) -> Result<Vec<Migration>, Error> {
    match to {
        Backend::Sled => Ok(Vec::new()),
        Backend::Postgres => Ok(PostgresStore::pending(postgres(config)?).await?),
    }
}

/// What is left to do when everything is in the new store, for people.
pub fn what_then(config: &Config, to: Backend) -> String {
    let key = match (&config.storage.master_key, to) {
        (None, Backend::Postgres) => {
            format!("storage.master_key_file = \"{}\"", config.storage.path.join(MASTER_KEY_FILE).display())
        }
        (None, Backend::Sled) => return "now set storage.backend = \"sled\" and start".to_owned(),
        (Some(_), _) => "the master key as it is".to_owned(),
    };
    format!("now set storage.backend = \"{}\", with {key}, and start", name(to))
}

/// A backend as `storage.backend` says it.
pub const fn name(backend: Backend) -> &'static str {
    match backend {
        Backend::Sled => "sled",
        Backend::Postgres => "postgres",
    }
}

async fn open_end(config: &Config, backend: Backend) -> Result<Arc<dyn Transfer>, Error> {
    let tasks = Tasks::new();
    Ok(match backend {
        Backend::Sled => {
            let path = config.storage.path.clone();
            let opened = tasks.spawn_blocking(move || SledStore::open(&path)).await;
            Arc::new(opened.map_err(|error| Error::Broken(error.to_string()))?.map_err(in_use)?)
        }
        Backend::Postgres => Arc::new(PostgresStore::open(postgres(config)?, &tasks).await?),
    })
}

fn postgres(config: &Config) -> Result<&Postgres, Error> {
    config.storage.postgres.as_ref().ok_or(Error::NoUrl)
}

fn in_use(error: store::Error) -> Error {
    if matches!(error, store::Error::InUse(_)) { Error::Running(error) } else { Error::Store(error) }
}

/// What is sealed can't be opened with another key, so that with one everything would be carried and nothing usable.
async fn check_key(config: &Config, source: &dyn Transfer) -> Result<(), Error> {
    let file = config.storage.path.join(MASTER_KEY_FILE);
    // The one that sled has made for itself, unless it was given one. Looking for it must not make it.
    let made = HeldKeys::in_existing_file(&file)?;
    let given = given_keys(config).map_err(|error| Error::Broken(error.to_string()))?;
    let fits = async |keys: Option<&HeldKeys>| match keys {
        Some(keys) => vault::fits(source, keys).await.map_err(Error::from),
        None => Ok(false),
    };
    let made_fits = fits(made.as_ref()).await?;
    match given {
        Some(given) if fits(Some(&given)).await? => Ok(()),
        Some(_) => Err(Error::WrongKey(made_fits.then_some(file))),
        None if made_fits => Ok(()),
        None => Err(Error::WrongKey(None)),
    }
}

/// Why the ends of a migration could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no folder of sled's.
    #[error("there is no state in {}: is storage.path the data folder of the server?", .0.display())]
    NoFolder(PathBuf),
    /// The schema is missing, or is not what this release needs.
    #[error("there is no state of this release in the schema {0:?} (storage.schema): if an older one wrote it, start this one on it first")]
    NoSchema(String),
    /// The configuration names no database.
    #[error("storage.url (or url_file) is missing: where is the database?")]
    NoUrl,
    /// A server uses the data folder.
    #[error("{0}: stop it first")]
    Running(#[source] store::Error),
    /// The master key of the configuration is another one.
    #[error(
        "the master key is not the one that the source was sealed with{}; nothing was written",
        .0.as_deref().map_or_else(|| ": give the right one as storage.master_key_file".to_owned(), right_key)
    )]
    WrongKey(Option<PathBuf>),
    /// The master key can't be read.
    #[error("the master key: {0}")]
    Key(#[from] seal::Error),
    /// The storage key is being rotated, or the state can't say.
    #[error(transparent)]
    Auth(#[from] auth::Error),
    /// A store can't be opened.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A thread broke off.
    #[error("{0}")]
    Broken(String),
}

fn right_key(path: &Path) -> String {
    format!(", which is in {0}: set storage.master_key_file = \"{0}\"", path.display())
}
