//! Live sessions that migrate between two builds of the example while clients talk.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use wharf::authoring::Language;
use wharf::net::SocketOptions;
use wharf::server::{Server, ServerHandle, SwapPolicy};
use wharf_tests::certificates::Certificates;
use wharf_tests::languages::project;
use wharf_tests::servers::{eventually, swap};
use wharf_tests::transcript::{Wire, plain, secure};

use crate::faults::misbehaving;
use crate::{host, load};

/// Clients of each of the two servers.
const CLIENTS: usize = 4;
/// Swaps, back and forth.
const SWAPS: usize = 4;

pub(crate) fn under_load(language: Language) {
    let certificates = Certificates::new();
    // Two builds whose code differs.
    let versions =
        [project(language, "0.1.0", &[]), project(language, "0.2.0", misbehaving(language))];
    let versions = versions.map(|project| load(&project));
    let describe = || {
        let options = SocketOptions { no_delay: true, ..SocketOptions::default() };
        let server = Server::builder().host(&host()).local_host("127.0.0.1").options(options);
        server.loaded_plugin(versions[0].clone())
    };
    let open = describe().start().expect("it starts");
    let closed = describe().credentials(certificates.credentials()).start().expect("it starts");
    let (stop, lines) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _stops = Stops(&stop);
        for number in 0..CLIENTS {
            let (open, closed) = (plain(open.address()), secure(closed.address(), &certificates));
            let (stop, lines) = (&stop, &lines);
            scope.spawn(move || talk(open, number, stop, lines));
            scope.spawn(move || talk(closed, number + CLIENTS, stop, lines));
        }
        let mut half = [
            Box::new(plain(open.address())) as Box<dyn Wire>,
            Box::new(secure(closed.address(), &certificates)),
        ];
        for wire in &mut half {
            say(wire.as_mut(), "begun\r\nhalf a li", "BEGUN\r\n");
        }
        for number in 1..=SWAPS {
            let before = lines.load(Ordering::Relaxed);
            eventually("clients talk", || lines.load(Ordering::Relaxed) >= before + 2 * CLIENTS);
            for server in [&open, &closed] {
                let report = swap(server, versions[number % 2].clone(), SwapPolicy::HandOff);
                assert_eq!(
                    (report.moved, report.stayed.len(), report.lost.len()),
                    (CLIENTS + 1, 0, 0),
                    "{report:?}"
                );
            }
        }
        for wire in &mut half {
            say(wire.as_mut(), "ne\n", "HALF A LINE\n");
        }
    });
    for server in [&open, &closed] {
        assert_well(server);
    }
}

/// Ends the clients when the test ends, also if it fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn assert_well(server: &ServerHandle) {
    assert!(server.counters().faults.is_empty(), "{:?}", server.counters().faults);
}

fn say(wire: &mut dyn Wire, text: &str, answer: &str) {
    wire.write_all(text.as_bytes()).expect("the server takes it");
    wire.flush().expect("the server takes it");
    let mut seen = vec![0; answer.len()];
    let outcome = wire.read_exact(&mut seen);
    assert_eq!(String::from_utf8_lossy(&seen), answer, "{outcome:?}");
}

/// Sends a line in two pieces until `stop` is set, and expects each answer in order.
fn talk(mut wire: impl Read + Write, number: usize, stop: &AtomicBool, lines: &AtomicUsize) {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        for piece in [format!("client {number} "), format!("says {count}\n")] {
            wire.write_all(piece.as_bytes()).expect("the server takes it");
            wire.flush().expect("the server takes it");
        }
        let answer = format!("CLIENT {number} SAYS {count}\n");
        let mut seen = vec![0; answer.len()];
        let outcome = wire.read_exact(&mut seen);
        assert_eq!(String::from_utf8_lossy(&seen), answer, "{outcome:?}");
        lines.fetch_add(1, Ordering::Relaxed);
    }
}
