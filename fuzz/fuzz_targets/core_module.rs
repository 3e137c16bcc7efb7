//! Runs `wharf::fuzzing::core_module` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wharf::fuzzing::core_module(bytes);
});
