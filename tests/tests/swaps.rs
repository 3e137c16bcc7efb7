//! Live sessions, plain and TLS, that talk while their plugin is swapped again and again, sometimes
//! for a bad version. `load -- swaps` runs the same at full size.

use std::process::Command;
use std::time::Duration;

use wharf::server::{Host, HostConfig, SwapPolicy};
use wharf_tests::guests::{bundled, rebuilt};
use wharf_tests::load::swaps::{Storm, run};
use wharf_tests::servers::{describe, swap};

#[test]
fn swaps_lose_no_byte_and_leak_nothing() {
    let host = Host::new(&HostConfig { workers: 2, sessions_max: 512, ..HostConfig::default() })
        .expect("a host");
    let clients = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let pace = Duration::from_millis(20);
    let storm = Storm {
        clients: 200,
        swaps: 40,
        quiet: Duration::from_millis(200),
        every: Duration::ZERO,
        pace,
    };
    let seen = run(&host, &clients, storm).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!((seen.moved, seen.stayed), (36 * 200, 4 * 200));
    let [(before, descriptors), (after, descriptors_after)] = seen.weights;
    assert!(
        descriptors_after <= descriptors + 8,
        "descriptors: {descriptors} and {descriptors_after}"
    );
    // An instance takes 40 KiB, and seven thousand were made. A leak of them would show.
    assert!(after < before + (48 << 10), "resident: {before} KiB and {after} KiB");
}

#[test]
fn swaps_fail_no_request_of_wrk_or_curl() {
    let tools =
        ["wrk", "curl"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
    if !tools {
        assert!(std::env::var_os("WHARF_TESTS_WRK").is_none(), "wrk and curl are required");
        eprintln!("skipped: no wrk, or no curl");
        return;
    }
    let server =
        describe(bundled("plugins/http")).setting("body", "it\n").start().expect("it starts");
    let url = format!("http://{}/", server.address());
    let wrk =
        ["--connections", "32", "--threads", "2", "--duration", "4s", "--timeout", "5s", &url];
    let builds = [rebuilt("plugins/http", "a"), rebuilt("plugins/http", "b")];
    let mut wrk = Command::new("wrk")
        .args(wrk)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("wrk runs");
    let mut moved = 0;
    for build in builds.iter().cycle() {
        let report = swap(&server, std::sync::Arc::clone(build), SwapPolicy::HandOff);
        assert!(report.stayed.is_empty() && !report.rolled_back, "{report:?}");
        moved += report.moved;
        let curl = Command::new("curl")
            .args(["--silent", "--fail", "--max-time", "5", &url, &url])
            .output();
        let curl = curl.expect("curl runs");
        assert!(curl.status.success() && curl.stdout == b"it\nit\n", "{curl:?}");
        if wrk.try_wait().expect("a child").is_some() {
            break;
        }
        // The test is about one swap each 100 ms, so it waits for nothing here.
        std::thread::sleep(Duration::from_millis(100));
    }
    let said = String::from_utf8(wrk.wait_with_output().expect("it ended").stdout).expect("words");
    assert!(
        said.contains("requests in")
            && !said.contains("Socket errors")
            && !said.contains("Non-2xx"),
        "{said}"
    );
    // The number of swaps depends on the machine.
    assert!(moved >= 2 * 32, "{moved} sessions moved");
    assert!(server.counters().faults.is_empty(), "{:?}", server.counters().faults);
}
