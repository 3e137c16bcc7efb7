//! Sessions that only their own peers keep from migrating with the others of their server.

use std::time::Duration;

use wharf::event::Priority;
use wharf::sched::BudgetChange;
use wharf::server::{HeldUp, ServerHandle, SwapPolicy, SwapRules};
use wharf::session::Watermarks;
use wharf_tests::readers::{PIECE_BYTES, Pattern, Reader, writer};
use wharf_tests::seeds::Seed;
use wharf_tests::servers::{describe, ended, eventually, swap};

/// How long sessions may take to prepare.
const PREPARE: Duration = Duration::from_millis(400);
/// Pieces that a client asks for: more than the buffers of the kernel take.
const PIECES: u8 = 120;
const ALL_BYTES: usize = PIECES as usize * PIECE_BYTES;
/// A steady reader that is not done when the others are ready.
const SLOWLY: Pattern = Pattern::Paced { bytes: 96 << 10, rest: Duration::from_millis(40) };

/// What a server's sessions do when an atomic migration begins, as numbers of sessions.
#[derive(Debug)]
struct Mix {
    /// Sessions that wait for the next byte.
    idle: usize,
    /// Sessions whose events wait for peers that read nothing.
    stuck: usize,
    /// Sessions whose events wait for peers that read steadily.
    slow: usize,
    /// Sessions whose plugin loops.
    busy: usize,
}

impl Mix {
    fn random(busy: usize, seed: &mut Seed) -> Self {
        let [idle, stuck, slow] =
            [seed.between(1, 8), seed.between(1, 5), seed.below(3)].map(|count| count as usize);
        Self { idle, stuck, slow, busy }
    }
}

fn start(held_up: HeldUp) -> ServerHandle {
    let minute = Some(Duration::from_secs(60));
    let budget = BudgetChange {
        fuel: Some(1_000_000_000_000),
        cpu: minute,
        wall: minute,
        ..BudgetChange::default()
    };
    let marks = Watermarks { high_bytes: 64 << 10, low_bytes: 16 << 10 };
    let rules = SwapRules { prepare: PREPARE, held_up, ..SwapRules::default() };
    let server =
        describe(writer('a')).budget(Priority::Normal, budget).watermarks(marks).swap_rules(rules);
    server.start().expect("it starts")
}

fn readers(server: &ServerHandle, count: usize, begin: impl Fn(&mut Reader)) -> Vec<Reader> {
    let mut readers: Vec<_> = (0..count).map(|_| Reader::connect(server.address())).collect();
    readers.iter_mut().for_each(begin);
    readers
}

fn asks(reader: &mut Reader) {
    reader.ask(PIECES);
}

/// Checks the version of a session that has answered `count - 1` bytes before.
fn answers(reader: &mut Reader, label: char, count: u8) {
    reader.0.send([1]).expect([label as u8, 1, count]);
}

/// Swaps once under such a mix, and calls `after` with the report and the stuck and slow readers.
fn swap_all(
    server: &ServerHandle,
    mix: &Mix,
    after: impl FnOnce(&wharf::server::SwapReport, [Vec<Reader>; 2]),
) {
    let mut idle = readers(server, mix.idle, |reader| answers(reader, 'a', 1));
    let stuck = readers(server, mix.stuck, asks);
    let mut slow = readers(server, mix.slow, asks);
    let _busy = readers(server, mix.busy, |reader| _ = reader.keep_busy());
    let events = mix.stuck + mix.slow + mix.busy;
    eventually("all events run", || {
        server
            .sessions(0, 100)
            .iter()
            .filter(|session| session.stats.event == Some("on-read"))
            .count()
            == events
    });
    let report = std::thread::scope(|scope| {
        for reader in &mut slow {
            scope.spawn(|| reader.read(SLOWLY, ALL_BYTES / 2));
        }
        swap(server, writer('b'), SwapPolicy::AllOrNothing)
    });
    let label = if report.rolled_back { 'a' } else { 'b' };
    idle.iter_mut().for_each(|reader| answers(reader, label, 2));
    answers(&mut Reader::connect(server.address()), label, 1);
    after(&report, [stuck, slow]);
    assert!(server.counters().faults.is_empty(), "{mix:?}: {:?}", server.counters().faults);
}

/// Checks that readers get every byte, and that their sessions keep their version.
fn go_on([stuck, slow]: [Vec<Reader>; 2]) {
    for mut reader in stuck {
        let all = Pattern::Paced { bytes: ALL_BYTES, rest: Duration::ZERO };
        assert_eq!(reader.read(all, ALL_BYTES), ALL_BYTES);
        answers(&mut reader, 'a', 1);
    }
    for mut reader in slow {
        let rest = Pattern::Paced { bytes: ALL_BYTES, rest: Duration::ZERO };
        assert_eq!(reader.read(rest, ALL_BYTES / 2), ALL_BYTES / 2);
        answers(&mut reader, 'a', 1);
    }
}

#[test]
fn held_up_sessions_keep_the_old_version() {
    let mut seed = Seed::of_this_run();
    for _ in 0..3 {
        let (server, mix) = (start(HeldUp::OldVersion), Mix::random(0, &mut seed));
        swap_all(&server, &mix, |report, held_up| {
            assert_eq!(
                (report.moved, report.ended, report.rolled_back),
                (mix.idle, 0, false),
                "{mix:?}: {report:?}"
            );
            assert_eq!(
                report.stayed.get("held-up"),
                Some(&(mix.stuck + mix.slow)),
                "{mix:?}: {report:?}"
            );
            go_on(held_up);
        });
        assert!(
            server.counters().ended.keys().all(|reason| reason == "peer-closed"),
            "{:?}",
            server.counters().ended
        );
    }
}

#[test]
fn held_up_sessions_end_if_configured() {
    let mut seed = Seed::of_this_run();
    for _ in 0..3 {
        let (server, mix) = (start(HeldUp::End), Mix::random(0, &mut seed));
        swap_all(&server, &mix, |report, _| {
            let held_up = mix.stuck + mix.slow;
            assert_eq!((report.moved, report.ended), (mix.idle, held_up), "{mix:?}: {report:?}");
            assert!(report.stayed.is_empty() && !report.rolled_back, "{mix:?}: {report:?}");
            ended(&server, "write-timeout", held_up as u64);
        });
    }
}

#[test]
fn busy_plugin_calls_off_and_ends_none() {
    let mut seed = Seed::of_this_run();
    for held_up in HeldUp::ALL {
        let busy = seed.between(1, 3) as usize;
        let (server, mix) = (start(held_up), Mix::random(busy, &mut seed));
        swap_all(&server, &mix, |report, held_up| {
            assert_eq!(
                (report.moved, report.ended, report.rolled_back),
                (0, 0, true),
                "{mix:?}: {report:?}"
            );
            assert!(report.stayed.contains_key("busy"), "{mix:?}: {report:?}");
            go_on(held_up);
        });
    }
}
