//! Runs `wharf::fuzzing::tls_files` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wharf::fuzzing::tls_files(bytes);
});
