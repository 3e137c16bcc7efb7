//! All kinds of load at once, for some seconds. `load -- mixed` runs the same for twenty minutes.

use wharf_tests::load::mixed::{Options, run};

/// The seed of every run of this test.
const SEED: u64 = 14;

#[test]
fn mixed_load_adds_up_and_leaves_nothing() {
    let options =
        Options { minutes: 0.1, clients: 40, seed: Some(SEED), pace: 100, swap_every: 500 };
    run(options).unwrap_or_else(|error| panic!("{error:#}"));
}
