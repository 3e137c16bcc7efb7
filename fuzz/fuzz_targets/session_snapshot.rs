//! Runs `wharf::fuzzing::session_snapshot` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wharf::fuzzing::session_snapshot(bytes);
});
