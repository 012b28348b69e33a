//! Whatever is found as a sealed value: see `src/crypto/fuzzing.rs` for what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nullpass::crypto::fuzz_sealed(data));
