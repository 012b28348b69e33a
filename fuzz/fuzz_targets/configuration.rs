//! Whatever stands in a configuration: see `src/config/fuzzing.rs` for what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nullpass::config::fuzz_configuration(data));
