//! Runs `wharf::fuzzing::proxy_header` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wharf::fuzzing::proxy_header(bytes);
});
