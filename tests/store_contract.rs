//! The contract of `Store`, held against every backend.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that panics is a test that fails")]
#![expect(clippy::print_stdout, reason = "how a process that is killed says what it did")]

#[path = "store_contract/audit.rs"]
mod audit;
#[path = "store_contract/damaged.rs"]
mod damaged;
#[path = "store_contract/fixtures.rs"]
mod fixtures;
#[path = "store_contract/history.rs"]
mod history;
#[path = "store_contract/model.rs"]
mod model;
#[path = "store_contract/postgres_only.rs"]
mod postgres_only;
#[path = "support/postgres.rs"]
mod postgres_server;
#[path = "store_contract/promises.rs"]
mod promises;
#[path = "store_contract/sled_only.rs"]
mod sled_only;
#[path = "store_contract/transfer.rs"]
mod transfer;

use std::path::Path;
use std::sync::Arc;

use nullpass::store::Store;
use nullpass::store::postgres::PostgresStore;
use nullpass::store::sled::SledStore;
use nullpass::store::transfer::Transfer;
use nullpass::tasks::Tasks;

/// How to get at a store; `folder` is empty at first and the same for the same state.
pub(crate) trait Backend {
    fn open(folder: &Path) -> impl Future<Output = Arc<dyn Store>> + Send {
        async { Self::open_whole(folder).await as Arc<dyn Store> }
    }

    /// The same, with the half that carries states.
    fn open_whole(folder: &Path) -> impl Future<Output = Arc<dyn Transfer>> + Send;
}

struct Sled;

impl Backend for Sled {
    async fn open_whole(folder: &Path) -> Arc<dyn Transfer> {
        Arc::new(SledStore::open(folder).unwrap())
    }
}

struct Postgres;

impl Backend for Postgres {
    /// The folder's one file names the schema.
    async fn open_whole(folder: &Path) -> Arc<dyn Transfer> {
        let file = folder.join("schema");
        let schema = std::fs::read_to_string(&file).unwrap_or_else(|_| {
            let schema = postgres_server::schema();
            std::fs::write(&file, &schema).unwrap();
            schema
        });
        let settings = nullpass::config::Postgres { schema, ..nullpass::config::Postgres::parse(&postgres_server::url()).unwrap() };
        Arc::new(PostgresStore::open(&settings, &Tasks::new()).await.unwrap())
    }
}

/// Each test once for a backend.
macro_rules! contract {
    ($name:ident, $backend:ty) => {
        contract!(
            $name, $backend:
            one_of_many_gets_an_address,
            one_of_many_changes_a_user,
            an_account_is_replaced_with_its_sessions,
            what_is_spent_once_is_spent_by_one,
            one_of_many_rotates,
            a_generation_is_good_for_the_grace_after_its_successor_was_seen,
            many_are_touched_in_any_order_and_more_than_once,
            an_audit_event_is_never_replaced,
            nothing_outlives_its_user,
            a_token_is_found_with_its_account,
            what_is_too_large_is_refused_whole,
            the_address_of_a_deleted_account_is_retired,
            many_records_are_scanned_and_purged_once_each,
            nothing_new_is_wrapped_by_an_old_key,
            one_of_many_keys_signs;
            audit:
            an_event_is_written_with_what_it_tells_of,
            what_writers_at_once_leave_holds,
            retention_cuts_a_chain_and_it_goes_on,
            what_is_taken_away_or_put_in_is_found,
            the_log_is_read_a_page_at_a_time,
            a_chain_is_carried_whole,
        );
    };
    ($name:ident, $backend:ty: $($promise:ident),* ; audit: $($chained:ident),* $(,)?) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $chained() {
                    crate::audit::$chained::<$backend>().await;
                }
            )*

            #[test]
            fn random_histories_match_the_model() {
                crate::history::check::<$backend>();
            }

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $promise() {
                    crate::promises::$promise::<$backend>().await;
                }
            )*
        }
    };
}

contract!(sled, crate::Sled);
contract!(postgres, crate::Postgres);
