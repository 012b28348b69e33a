//! Whatever an upstream says: see `src/proxy/http1/fuzzing.rs` for what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nullpass::proxy::fuzz_answer(data));
