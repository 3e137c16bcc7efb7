//! Runs `http::fuzzing::http_request` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    http::fuzzing::http_request(bytes);
});
