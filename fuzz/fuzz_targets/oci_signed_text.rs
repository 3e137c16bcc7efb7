//! Runs `wharf::fuzzing::oci_signed_text` on bytes that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wharf::fuzzing::oci_signed_text(bytes);
});
