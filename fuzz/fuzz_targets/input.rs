//! Whatever is sent to our own routes: see `src/web/fuzzing.rs` for what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nullpass::web::fuzz_input(data));
