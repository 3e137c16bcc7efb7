//! Runs `wharf::fuzzing::api_request` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wharf::fuzzing::api_request(bytes);
});
