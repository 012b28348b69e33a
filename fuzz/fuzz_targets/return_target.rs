//! Wherever a sign-in shall lead: see `src/web/fuzzing.rs` for what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nullpass::web::fuzz_return_target(data));
