//! Limits of the machine that a test lowers: settings of the kernel and control groups.
//!
//! Where they cannot be changed, a test says so and checks nothing. `WHARF_TESTS_MACHINE=required`
//! makes that a failure.

/// Says why a test checks nothing.
///
/// # Panics
/// The limits of the machine are required.
pub fn skipped(why: &str) {
    let required = std::env::var_os("WHARF_TESTS_MACHINE").is_some();
    assert!(!required, "limits of the machine are required: {why}");
    eprintln!("SKIPPED: nothing was tried with a limit of the machine: {why}");
}
