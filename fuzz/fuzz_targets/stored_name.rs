//! Runs `wharf::fuzzing::stored_name` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wharf::fuzzing::stored_name(bytes);
});
