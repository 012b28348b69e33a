//! Whatever path is asked for: see `src/policy/fuzzing.rs` for what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nullpass::policy::fuzz_path(data));
