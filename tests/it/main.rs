//! Integration tests: the whole sidecar in one process, asked over its sockets. Every test names the requirement that it
//! holds; `docs/security.md` has the table.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::float_cmp,
    reason = "a test that can't go on fails, and what is counted is whole"
)]

mod audit;
mod away;
mod bounces;
mod browser;
mod corpus;
mod deciders;
mod drain;
mod forward_auth;
mod framing;
mod greedy;
mod grpc;
mod guessing;
mod headers;
mod http2;
mod kept_work;
mod keys;
mod limits;
mod null_pass;
mod parked;
mod path;
mod programs;
mod property;
mod proxy_protocol;
mod purposes;
mod redirect;
mod reload;
mod replicas;
mod sessions;
mod sign_in;
mod smuggling;
mod start;
mod support;
mod tls;
mod upstreams;
mod websocket;
