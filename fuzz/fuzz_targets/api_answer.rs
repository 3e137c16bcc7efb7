//! Runs `wharf::fuzzing::api_answer` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wharf::fuzzing::api_answer(bytes);
});
