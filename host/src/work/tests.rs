//! Tests of fairness between tenants, with seeded mixes of jobs, and with real threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::queue::TenantQueue;
use super::*;
use crate::rng::Rng;

#[test]
fn tenant_waits_for_one_step_of_others() {
    for seed in 1..300 {
        let mut rng = Rng(seed);
        let tenants: Vec<Arc<str>> =
            (0..2 + rng.throw(5)).map(|one| format!("t{one}").into()).collect();
        let mut queue = TenantQueue::new(RUNNING_TENANT_MAX);
        let mut waiting: BTreeMap<Arc<str>, Vec<u64>> = BTreeMap::new();
        let mut running: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        // Jobs of others that were taken since this tenant could have had one.
        let mut passed: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for _ in 0..400 {
            let tenant = Arc::clone(&tenants[rng.throw(tenants.len() as u64) as usize]);
            let line = waiting.entry(Arc::clone(&tenant)).or_default();
            match rng.throw(10) {
                // One of the tenants is greedy.
                0..5 if *tenant == *tenants[0] || rng.throw(4) == 0 => {
                    match queue.put(&tenant, (), QUEUED_TENANT_MAX) {
                        Ok(number) => line.push(number),
                        Err(queued) => assert_eq!(queued, QUEUED_TENANT_MAX, "seed {seed}"),
                    }
                    assert!(line.len() <= QUEUED_TENANT_MAX, "seed {seed}");
                }
                5 if !line.is_empty() => {
                    let number = line.remove(rng.throw(line.len() as u64) as usize);
                    assert!(queue.withdraw(&tenant, number).is_some(), "seed {seed}");
                    assert!(queue.withdraw(&tenant, number).is_none(), "seed {seed}");
                }
                6 | 7 if running.get(&tenant).is_some_and(|running| *running > 0) => {
                    *running.entry(Arc::clone(&tenant)).or_default() -= 1;
                    queue.done(&tenant);
                }
                _ => {
                    let taken = queue.take().map(|(tenant, ())| tenant);
                    let may = |tenant: &Arc<str>| {
                        waiting.get(tenant).is_some_and(|line| !line.is_empty())
                            && running.get(tenant).copied().unwrap_or(0) < RUNNING_TENANT_MAX
                    };
                    let free: Vec<_> =
                        tenants.iter().filter(|tenant| may(tenant)).cloned().collect();
                    assert_eq!(taken.is_some(), !free.is_empty(), "seed {seed}");
                    passed.retain(|tenant, _| free.contains(tenant));
                    let Some(taken) = taken else { continue };
                    assert!(free.contains(&taken), "seed {seed}: {taken} is over its limit");
                    for other in free.iter().filter(|other| **other != taken) {
                        let passed = passed.entry(Arc::clone(other)).or_default();
                        *passed += 1;
                        let most = tenants.len() * RUNNING_TENANT_MAX;
                        assert!(*passed <= most, "seed {seed}: {other} is passed by");
                    }
                    passed.remove(&taken);
                    waiting.entry(Arc::clone(&taken)).or_default().remove(0);
                    *running.entry(taken).or_default() += 1;
                }
            }
        }
    }
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

#[test]
fn full_queues_of_one_tenant_delay_no_other() {
    let pool = Arc::new(WorkPool::start(|| ()).expect("threads"));
    let (slow, quick): (Arc<str>, Arc<str>) = ("slow".into(), "quick".into());
    let (release, hold) = mpsc::channel::<()>();
    let hold = Arc::new(Mutex::new(hold));
    for kind in WorkKind::ALL {
        let mut refused = 0;
        for _ in 0..QUEUED_TENANT_MAX + RUNNING_TENANT_MAX + 3 {
            let hold = Arc::clone(&hold);
            let held = move || {
                let _ = hold.lock().expect("no panic").recv();
            };
            if let Err(error) = pool.run_alone(kind, &slow, held) {
                assert!(error.to_string().contains("the tenant `slow`"), "{error}");
                refused += 1;
            }
        }
        assert!(refused >= 1, "the queue has a limit");
        for number in 0..20 {
            assert_eq!(wait(pool.run(kind, &quick, move || number)), Ok(number));
        }
        let seen = pool.seen();
        let line =
            seen.iter().find(|seen| seen.kind == kind && seen.tenant == slow).expect("it waits");
        assert!(line.running <= kind.running_tenant_max() && line.refused == refused, "{line:?}");
    }
    drop(release);
}

#[test]
fn restoring_tenants_leave_threads_to_others() {
    for tenants in 1..THREADS {
        let pool = Arc::new(WorkPool::start(|| ()).expect("threads"));
        let (release, hold) = mpsc::channel::<()>();
        let hold = Arc::new(Mutex::new(hold));
        for step in 0..3 * tenants {
            let (hold, tenant) = (Arc::clone(&hold), Arc::from(format!("t{}", step % tenants)));
            let held = move || {
                let _ = hold.lock().expect("no panic").recv();
            };
            pool.run_alone(WorkKind::Restore, &tenant, held).expect("room");
        }
        let other: Arc<str> = "other".into();
        for kind in WorkKind::ALL {
            assert_eq!(
                wait(pool.run(kind, &other, || 7)),
                Ok(7),
                "{tenants} tenants, {}",
                kind.name()
            );
        }
        drop(release);
    }
}

#[test]
fn panic_in_a_step_keeps_the_thread() {
    let pool = WorkPool::start(|| ()).expect("threads");
    let tenant: Arc<str> = "any".into();
    for round in 0..THREADS * 3 {
        let text = format!("round {round}");
        let said = text.clone();
        let outcome = wait(pool.run(WorkKind::Short, &tenant, move || -> () { panic!("{said}") }));
        assert_eq!(outcome, Err(WorkError::Panicked(text)));
    }
    assert_eq!(wait(pool.run(WorkKind::Short, &tenant, || 7)), Ok(7));
}

#[test]
fn caller_that_goes_takes_its_step_along() {
    let pool = Arc::new(WorkPool::start(|| ()).expect("threads"));
    let tenant: Arc<str> = "any".into();
    let (release, hold) = mpsc::channel::<()>();
    let hold = Arc::new(Mutex::new(hold));
    for _ in 0..RUNNING_TENANT_MAX {
        let hold = Arc::clone(&hold);
        let held = move || {
            let _ = hold.lock().expect("no panic").recv();
        };
        pool.run_alone(WorkKind::Long, &tenant, held).expect("room");
    }
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..QUEUED_TENANT_MAX * 3 {
        let counted = Arc::clone(&done);
        let step =
            pool.run(WorkKind::Long, &tenant, move || counted.fetch_add(1, Ordering::Relaxed));
        // The step enters the queue by its first poll, and is dropped then.
        wait(async {
            let mut step = std::pin::pin!(step);
            let once = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(step.as_mut().poll(cx).is_pending())
            });
            assert!(once.await, "no thread is free for it");
        });
    }
    drop(release);
    assert_eq!(wait(pool.run(WorkKind::Long, &tenant, || ())), Ok(()));
    assert_eq!(done.load(Ordering::Relaxed), 0, "none of them ran");
}

#[test]
fn thread_that_cannot_be_prepared_is_an_error() {
    let error = WorkPool::start(|| panic!("no memory")).err().expect("it cannot start");
    assert!(error.to_string().contains("no memory"), "{error}");
}

#[test]
fn full_queue_of_the_host_names_the_process() {
    let full = |tenant: &str| WorkError::Full { tenant: tenant.into(), queued: 64 }.to_string();
    let (host, tenant) = (full(HOST), full("a"));
    assert!(host.starts_with("64 steps of the process wait"), "{host}");
    assert!(tenant.starts_with("64 steps of the tenant `a` wait"), "{tenant}");
}
