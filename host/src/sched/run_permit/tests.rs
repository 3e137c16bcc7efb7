//! Tests: a neighbour gets its permit soon, in spite of the sessions of another tenant.

use std::task::Waker;

use super::*;

/// Many sessions of one tenant have mail. An event of another tenant passes all but the first of
/// them.
#[test]
fn mail_of_many_lets_a_neighbour_pass() {
    let run_queues = Arc::new(Lane::ALL.map(|lane| Arc::new(RunQueue::new(lane, 1))));
    let run_queue = &run_queues[Lane::Standard as usize];
    let of = |tenant: &str| {
        let placement = Arc::new(Placement::new(Lane::Standard, Arc::clone(&run_queues)));
        RunPermit::new(placement, Priority::Normal, tenant.into(), Arc::default())
    };
    let cx = &mut Context::from_waker(Waker::noop());
    run_queue.attend(0);
    for (receivers, each_us) in [(1, 10), (2, 900), (7, 300), (60, 1_000), (200, 40)] {
        let mut mail: Vec<_> = (0..receivers).map(|_| of("a")).collect();
        let mut event = of("b");
        while !run_queue.is_crowded(0, Instant::now()) {
            std::thread::yield_now();
        }
        let at_once = mail.iter_mut().filter_map(|run_permit| {
            run_permit.poll_mail(Priority::Normal, cx).is_ready().then_some(())
        });
        assert!(at_once.count() <= 1, "mail of {receivers} goes past the line");
        event.begin(Priority::Normal, Instant::now());
        let mut moved = 0;
        while event.poll(cx).is_pending() {
            for run_permit in &mut mail {
                if run_permit.poll_mail(Priority::Normal, cx).is_ready() {
                    run_permit.used(Duration::from_micros(each_us));
                    run_permit.rest();
                    moved += 1;
                }
            }
            assert!(moved <= 2 * receivers, "it waits for ever");
        }
        assert!(moved <= 2, "{moved} of {receivers} were moved before it");
        event.rest();
    }
}

/// Runs sessions of two tenants on one thread. The sessions of the first tenant all run `act` at
/// once, again and again. Returns how often `act` ran between a byte for the second tenant's
/// session and that session's permit.
fn runs_before_neighbour(
    sessions: usize,
    act: impl AsyncFn(&mut RunPermit) + Copy + 'static,
) -> usize {
    use std::cell::{Cell, RefCell};
    use std::io::Write;
    use std::rc::Rc;

    use tokio::io::AsyncReadExt;

    let run_queues = Arc::new(Lane::ALL.map(|lane| Arc::new(RunQueue::new(lane, 1))));
    run_queues[Lane::Standard as usize].attend(0);
    let of = move |tenant: &str| {
        let placement = Arc::new(Placement::new(Lane::Standard, Arc::clone(&run_queues)));
        RunPermit::new(placement, Priority::Normal, tenant.into(), Arc::default())
    };
    let (neighbour, client) = std::os::unix::net::UnixStream::pair().expect("a pair");
    neighbour.set_nonblocking(true).expect("an option");
    let (acts, client) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(client)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let local = tokio::task::LocalSet::new();
    let barrier = Rc::new(tokio::sync::Barrier::new(sessions));
    for _ in 0..sessions {
        let (mut run_permit, acts, client) = (of("a"), Rc::clone(&acts), Rc::clone(&client));
        let barrier = Rc::clone(&barrier);
        local.spawn_local(async move {
            loop {
                act(&mut run_permit).await;
                acts.set(acts.get() + 1);
                if acts.get() == 3 * sessions + 1 {
                    client.borrow_mut().write_all(b"x").expect("there is room");
                }
                barrier.wait().await;
            }
        });
    }
    let mut run_permit = of("b");
    runtime.expect("a runtime").block_on(local.run_until(async move {
        let mut neighbour = tokio::net::UnixStream::from_std(neighbour).expect("a reactor");
        neighbour.read_u8().await.expect("a byte");
        run_permit.begin(Priority::Normal, Instant::now());
        poll_fn(|cx| run_permit.poll(cx)).await;
        acts.get() - 3 * sessions - 1
    }))
}

fn burn(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {}
}

/// Events end just before their slice does.
#[test]
fn events_in_a_row_let_neighbours_in() {
    for (sessions, each_us) in [(10, 900), (40, 700), (100, 400)] {
        let passed = runs_before_neighbour(sessions, async move |run_permit: &mut RunPermit| {
            run_permit.begin(Priority::Normal, Instant::now());
            poll_fn(|cx| run_permit.poll(cx)).await;
            burn(Duration::from_micros(each_us));
            run_permit.used(Duration::from_micros(each_us));
            run_permit.rest();
        });
        // The events between two looks at the sockets, and one more.
        let most = 3 + 2_000 / each_us as usize;
        assert!(passed <= most, "{passed} of {sessions} events passed it");
    }
}

/// Handshakes, and instances whose memories are cleared.
#[test]
fn work_between_events_lets_neighbours_in() {
    for (sessions, each_us) in [(10, 900), (40, 700), (100, 400)] {
        let passed = runs_before_neighbour(sessions, async move |run_permit: &mut RunPermit| {
            run_permit
                .perform(Priority::Normal, async {
                    burn(Duration::from_micros(each_us));
                })
                .await;
        });
        let most = 3 + 2_000 / each_us as usize;
        assert!(passed <= most, "{passed} of {sessions} passed it");
    }
}

#[test]
fn event_waits_for_tenant_and_crowded_thread() {
    let run_queues = Arc::new(Lane::ALL.map(|lane| Arc::new(RunQueue::new(lane, 1))));
    let run_queue = Arc::clone(&run_queues[Lane::Standard as usize]);
    run_queue.attend(0);
    let quota = Arc::<Quota>::default();
    let of = |tenant: &str, quota: &Arc<Quota>| {
        let placement = Arc::new(Placement::new(Lane::Standard, Arc::clone(&run_queues)));
        RunPermit::new(placement, Priority::Normal, tenant.into(), Arc::clone(quota))
    };
    let mut limited = of("a", &quota);
    quota.set(crate::sched::QuotaLimits { cpus: 0.01, ..Default::default() });
    assert!(!limited.would_wait(), "it has used nothing");
    limited.used(Duration::from_secs(1));
    assert!(limited.would_wait(), "its tenant has used up its share");
    let free = of("b", &Arc::default());
    while !run_queue.is_crowded(0, Instant::now()) {
        std::thread::yield_now();
    }
    assert!(free.would_wait(), "the thread is crowded");
    RunQueue::rested();
    assert!(!free.would_wait(), "the thread has rested");
}
