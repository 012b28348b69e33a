//! The operators' side: the second listener with health and metrics, and the command line's socket.
//!
//! `listener` answers probes and scrapers and shows no secret; `command` is what the command line may ask of the
//! state, `audit` what of the audit log; `socket` carries commands from the command line to a running server; `migrate` carries a state to another store.

pub mod audit;
pub mod command;
pub mod listener;
pub mod migrate;
pub mod socket;
#[cfg(test)]
mod tests;
mod view;

pub use listener::{Names, Probe, State, serve};
pub use view::{KeyRows, SessionRow, SigningKeyRow, StorageKeyRow, TokenRow, UserRow};
