//! The state, opened: the store that the configuration names, with the key that its contents are sealed with.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use super::Error;
use super::generation::auth_settings;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::{Backend, Config};
use crate::crypto::seal::{HeldKeys, MasterKey};
use crate::model::Secret;
use crate::store::postgres::PostgresStore;
use crate::store::sled::SledStore;
use crate::store::{self, Store};
use crate::tasks::Tasks;

/// The master key's file in the data folder, when the configuration names no key.
pub(super) const MASTER_KEY_FILE: &str = "master.key";

/// Opens the state without serving, for the command line.
pub async fn open_auth(config: &Config, clock: &Clock) -> Result<Arc<Auth>, Error> {
    crate::crypto::token::install_provider();
    let tasks = Tasks::new();
    let store = open_store(config, &tasks).await?;
    let key = usable(config, &store).await?;
    let shared = match config.storage.backend {
        Backend::Sled => false,
        Backend::Postgres => true,
    };
    Ok(Auth::open_briefly(auth_settings(config), store, shared, key, tasks, clock.now()).await?)
}

/// Opens the store that the configuration names, whose work runs as `tasks`.
///
/// # Errors
///
/// It can't be opened: [`Error::Store`] says why.
pub async fn open_store(config: &Config, tasks: &Tasks) -> Result<Arc<dyn Store>, Error> {
    match config.storage.backend {
        Backend::Sled => open_sled(config, tasks).await,
        Backend::Postgres => open_postgres(config, tasks).await,
    }
}

async fn open_postgres(config: &Config, tasks: &Tasks) -> Result<Arc<dyn Store>, Error> {
    let storage = &config.storage;
    let missing = |key: &str| Error::Start(format!("storage.{key} is missing"));
    // One made here would be another one on every machine, and none of them could read what the others wrote.
    storage.master_key.as_ref().ok_or_else(|| missing("master_key"))?;
    let settings = storage.postgres.as_ref().ok_or_else(|| missing("url"))?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&storage.path);
    made.map_err(|error| Error::Start(format!("the data folder {} can't be made: {error}", storage.path.display())))?;
    Ok(Arc::new(PostgresStore::open(settings, tasks).await?))
}

async fn open_sled(config: &Config, tasks: &Tasks) -> Result<Arc<dyn Store>, Error> {
    let path = config.storage.path.clone();
    let opened = tasks.spawn_blocking(move || SledStore::open(&path)).await;
    Ok(Arc::new(opened.map_err(|error| Error::Start(error.to_string()))??))
}

/// Opens the use cases on a store, to serve.
pub(super) async fn open(config: &Config, store: Arc<dyn Store>, clock: &Clock, tasks: &Tasks) -> Result<Arc<Auth>, Error> {
    let key = usable(config, &store).await?;
    Ok(Auth::open(auth_settings(config), store, key, tasks.clone(), clock.now()).await?)
}

/// Refuses a store that is only half there, before anything is written to it. Returns what its contents are sealed with.
async fn usable(config: &Config, store: &Arc<dyn Store>) -> Result<HeldKeys, Error> {
    store::transfer::refuse_half_imported(&**store).await?;
    // After the store: it has made the data folder and is its only user.
    if let Some(held) = given_keys(config)? {
        return Ok(held);
    }
    let path = config.storage.path.join(MASTER_KEY_FILE);
    if store.meta(store::STORAGE_KEYS).await?.is_none() {
        return Ok(HeldKeys::in_file(&path)?);
    }
    // A key that is made now would be another one than that which the state is sealed with.
    HeldKeys::in_existing_file(&path)?.ok_or_else(|| {
        Error::Start(format!(
            "the master key's file {} is missing, and what is stored can't be read without it: restore it from a backup, or give the \
             key as storage.master_key; nothing was changed",
            path.display()
        ))
    })
}

/// The keys that the configuration gives.
pub(super) fn given_keys(config: &Config) -> Result<Option<HeldKeys>, Error> {
    let key = |bytes: &Option<Secret<Vec<u8>>>| bytes.as_ref().map(|bytes| MasterKey::from_bytes(bytes.expose())).transpose();
    let (master, previous) = (key(&config.storage.master_key)?, key(&config.storage.previous_master_key)?);
    Ok(master.map(|master| HeldKeys::given(&master, previous.as_ref())))
}
