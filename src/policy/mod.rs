//! What a request needs to be let through: pure functions of the request, the rules and the identity. Nothing here
//! does I/O, reads a clock or keeps state.
//!
//! [`path`] says what a path can mean, [`host`] what a host name is, [`network`] what an address belongs to, [`glob`] what a rule's path selects, and
//! [`rules`] puts them together.

#[cfg(any(test, fuzzing))]
mod fuzzing;
pub mod glob;
pub mod host;
pub mod network;
pub mod path;
pub mod rules;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use fuzzing::{host as fuzz_host, path as fuzz_path};
