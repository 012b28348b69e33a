//! nullpass: a reverse-proxy authentication sidecar.
//!
//! The map of the house, in the order in which a request walks through it; `ARCHITECTURE.md` says who may import whom.

pub mod admin;
pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod forward_auth;
pub mod jobs;
pub mod limit;
pub mod model;
pub mod policy;
pub mod proxy;
pub mod selftest;
pub mod server;
pub mod store;
pub mod tasks;
pub mod telemetry;
#[cfg(test)]
mod tests;
pub mod trust;
pub mod web;
pub mod wire;
