//! Whatever form meets a session that is over: see `src/web/kept/fuzzing.rs` for what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nullpass::web::fuzz_kept_form(data));
