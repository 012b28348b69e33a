//! Whatever is presented as an API token: see `src/crypto/fuzzing.rs` for what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nullpass::crypto::fuzz_api_token(data));
