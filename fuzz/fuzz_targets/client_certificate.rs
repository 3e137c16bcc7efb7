//! Runs `wharf::fuzzing::client_certificate` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wharf::fuzzing::client_certificate(bytes);
});
