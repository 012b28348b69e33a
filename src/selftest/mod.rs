//! The corpus of attacks, and sending it to an instance that runs: whether what was promised holds where it counts.
//!
//! `tests/corpus/` is data. [`corpus`] reads it, [`request`] makes bytes of it; the integration tests send these to servers
//! with the three sets of rules that the expectations are written for, with an application behind them that keeps every byte.
//! [`run`] sends them to somebody's own instance, whose rules and application nobody knows here; what that can tell is in
//! `judge`.

pub mod answer;
pub mod corpus;
pub mod instance;
mod judge;
pub mod request;
pub mod run;
