//! Whatever cookies a client sends: see `src/wire/fuzzing.rs` for what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nullpass::wire::fuzz_cookie(data));
