//! Whatever is presented as a token: see `src/crypto/token/fuzzing.rs` for what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nullpass::crypto::fuzz_token(data));
