//! Live sessions, plain and TLS, that talk while their plugin is swapped again and again, and now and then for a bad version.
//! The same at its full size is `load -- swaps`.

use std::time::Duration;

use wharf::server::{Host, HostConfig};
use wharf_tests::load::swaps::{Storm, run};

#[test]
fn two_hundred_clients_lose_nothing_over_forty_swaps_and_nothing_grows() {
    let host = Host::new(&HostConfig { workers: 2, sessions_max: 512, ..HostConfig::default() }).expect("a host");
    let clients =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let storm = Storm { clients: 200, swaps: 40, quiet: Duration::from_millis(200), every: Duration::ZERO };
    let seen = run(&host, &clients, storm).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!((seen.moved, seen.stayed), (36 * 200, 4 * 200));
    let [(before, descriptors), (after, descriptors_after)] = seen.weights;
    assert!(descriptors_after <= descriptors + 8, "descriptors: {descriptors} and {descriptors_after}");
    // An instance that is kept is forty kibibytes, and seven thousand were made.
    assert!(after < before + (48 << 10), "resident: {before} KiB and {after} KiB");
}
