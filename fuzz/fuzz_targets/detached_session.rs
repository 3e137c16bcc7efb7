//! Runs `wharf::fuzzing::detached_session` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wharf::fuzzing::detached_session(bytes);
});
