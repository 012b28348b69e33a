//! Whatever a store gives back: see `src/store/fuzzing.rs` for what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nullpass::store::fuzz_stored_record(data));
