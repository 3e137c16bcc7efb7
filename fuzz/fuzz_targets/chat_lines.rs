//! Runs `chat::fuzzing::chat_lines` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    chat::fuzzing::chat_lines(bytes);
});
