//! Runs `lines::fuzzing::line_framing` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    lines::fuzzing::line_framing(bytes);
});
