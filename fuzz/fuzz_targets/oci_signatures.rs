//! Runs `wharf::fuzzing::oci_signatures` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wharf::fuzzing::oci_signatures(bytes);
});
