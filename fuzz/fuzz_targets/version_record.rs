//! Runs `wharf::fuzzing::version_record` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wharf::fuzzing::version_record(bytes);
});
