//! Runs `wharf::fuzzing::plugin_manifest` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wharf::fuzzing::plugin_manifest(bytes);
});
