//! `nullpass key`: the signing keys and the storage key. What is shown is never a key.

use clap::Subcommand;

use super::progress::{Line, Meter, Things, number};
use super::state::{self, State};
use super::table::{self, Table};
use super::{Failure, OnState, output};
use crate::admin::KeyRows;
use crate::admin::command::{Answer, Command};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// List the signing keys and the storage key
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Sign with a new key from now on: nobody is signed out, the old key verifies until its last token has run out
    Rotate {
        /// Replace the storage key, which follows from the master key, instead; repeat this to go on after an interruption
        #[arg(long)]
        storage: bool,
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(arguments: OnState<Action>) -> Result<(), Failure> {
    let OnState { file, action } = arguments;
    state::with(&file, |state| match action {
        Action::List { json } => show(&ask(state, Command::KeyList {})?, json),
        Action::Rotate { storage: false, json } => show(&ask(state, Command::KeyRotate {})?, json),
        Action::Rotate { storage: true, json } => {
            replace(state)?;
            show(&ask(state, Command::KeyList {})?, json)
        }
    })
}

fn ask(state: &mut State, command: Command) -> Result<KeyRows, Failure> {
    let Answer::Keys(keys) = state.ask(command)? else { return Err(state::unexpected()) };
    Ok(keys)
}

/// Replaces the storage key, step by step. Wherever it is broken off, what was done is done, and both keys are good.
fn replace(state: &mut State) -> Result<(), Failure> {
    let Answer::Rotating(total) = state.ask(Command::StorageKeyRotate {})? else { return Err(state::unexpected()) };
    let mut meter = Meter::new();
    let (mut done, mut after) = (0, None);
    let outcome = loop {
        match state.ask(Command::StorageKeyRewrap { after }) {
            Ok(Answer::Rewrapped { seen, next, finished }) => {
                // A round more than one begins anew, and is short.
                done += seen;
                meter.show(Line { verb: "wrapping", done: done.min(total), total: Some(total), things: Things::Named("keys") });
                if finished {
                    break Ok(());
                }
                after = next;
            }
            Ok(_) => break Err(state::unexpected()),
            Err(failure) => break Err(failure),
        }
    };
    meter.end();
    if outcome.is_ok() {
        output::note(&format!("wrapped {} keys anew; the old master key is needed for older backups alone", number(total)));
    } else {
        output::note("broken off: both master keys are needed until the same command was repeated and has come to its end");
    }
    outcome
}

fn show(keys: &KeyRows, json: bool) -> Result<(), Failure> {
    if json { output::json(keys) } else { output::text(&render(keys)) }
}

fn render(keys: &KeyRows) -> String {
    let mut table = Table::new(["USE", "KEY", "ALGORITHM", "MADE", "STATUS"]);
    for key in &keys.signing {
        let status = match &key.verifies_until {
            Some(until) => format!("{} until {}", key.status, table::time(until)),
            None => key.status.clone(),
        };
        table.row(["tokens".to_owned(), key.kid.0.clone(), format!("{:?}", key.algorithm), table::time(&key.created_at), status]);
    }
    let storage = &keys.storage;
    let status = match storage.left {
        Some(left) => format!("{}: {} wrapped with the one before", storage.status, number(left)),
        None => storage.status.clone(),
    };
    let name = format!("{} version {}", storage.fingerprint, storage.version);
    let made = storage.since.as_deref().map(table::time).unwrap_or_default();
    table.row(["storage".to_owned(), name, "AES-256-GCM".to_owned(), made, status]);
    table.render()
}
