//! Whatever head of a request is passed on: see `src/proxy/request/fuzzing.rs` for what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nullpass::proxy::fuzz_request_head(data));
