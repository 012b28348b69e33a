//! Whatever a proxy says first: see `src/server/fuzzing.rs` for what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nullpass::server::fuzz_proxy_line(data));
