//! The host's side of one instance: its session, its limits, its clock and its WASI.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, StoreContextMut, Trap, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::context::Context;
use super::engine::is_out_of_room;
use super::flat::FlatState;

use super::output::{Tap, WhichStream};
use super::ticker::{TICK, Ticker};
use crate::event::Scope;
use crate::sched::{nanoseconds, thread_time};

/// Handles that a guest may hold in its WASI table.
const WASI_HANDLES_MAX: usize = 1_024;
/// The id that no session has.
const NO_SESSION: u64 = 0;
/// Bytes of randomness that one call may ask for.
const RANDOM_MAX_BYTES: u64 = 64 << 10;

/// The data of one instance's store.
pub(super) struct HostState {
    pub(super) scope: Scope,
    pub(super) context: Arc<Context>,
    pub(super) limiter: Limiter,
    pub(super) clock: CpuClock,
    ticker: Ticker,
    /// Number of the session whose event the instance handles, or handled last.
    speaker: Arc<AtomicU64>,
    /// The host's part of a flat instance.
    pub(super) flat: Option<Box<FlatState>>,
    /// Made at the first use: most instances never touch WASI.
    wasi: Option<Box<Wasi>>,
}

struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
}

impl HostState {
    pub(super) fn new(scope: Scope, context: Arc<Context>, ticker: Ticker) -> Self {
        let limiter = Limiter::new(Arc::clone(&context));
        let speaker = Arc::new(AtomicU64::new(scope.port.info().id));
        Self {
            scope,
            context,
            limiter,
            clock: CpuClock::default(),
            ticker,
            speaker,
            flat: None,
            wasi: None,
        }
    }

    /// Sets the session that the instance acts on from now on, and in whose name it writes to the
    /// log.
    pub(super) fn serve(&mut self, scope: Scope) {
        let id = scope.port.info().id;
        self.scope = scope;
        if id != NO_SESSION {
            self.speaker.store(id, Ordering::Relaxed);
        }
    }
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.get_or_insert_with(|| {
            let tap =
                |stream| Tap::new(Arc::clone(&self.context), Arc::clone(&self.speaker), stream);
            let mut builder = WasiCtx::builder();
            builder.stdout(tap(WhichStream::Stdout)).stderr(tap(WhichStream::Stderr));
            builder
                .max_random_size(RANDOM_MAX_BYTES)
                .allow_tcp(false)
                .allow_udp(false)
                .allow_ip_name_lookup(false);
            let mut table = ResourceTable::new();
            table.set_max_capacity(WASI_HANDLES_MAX);
            Box::new(Wasi { ctx: builder.build(), table })
        });
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

/// Keeps the memories and tables of an instance below their limits, all memories and all tables
/// together, and the memory within its tenant's quota. Gives the memory back when the instance is
/// dropped.
pub(super) struct Limiter {
    context: Arc<Context>,
    pub(super) memory: usize,
    /// Bytes of the last memory growth that the limits allowed.
    last_memory: usize,
    /// Elements of all tables together.
    tables: usize,
    /// Elements of the last table growth that the limits allowed.
    last_table: usize,
    /// A refused growth. It explains a trap soon after.
    pub(super) refused: Option<Refused>,
}

/// The limit that refused a growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The instance's memory.
    Memory,
    /// Its tenant's memory.
    Tenant,
    /// The instance's tables.
    Tables,
    /// The memory of the process, or a refusal by the system.
    Host,
}

impl Limiter {
    fn new(context: Arc<Context>) -> Self {
        Self { context, memory: 0, last_memory: 0, tables: 0, last_table: 0, refused: None }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        let total = self.memory.saturating_add(more);
        let fits = total <= self.context.limits.memory_max_bytes
            && maximum.is_none_or(|maximum| desired <= maximum);
        if fits && more > 0 && !self.context.holding.may_grow(more) {
            self.refused = Some(Refused::Host);
            return Ok(false);
        }
        self.refused = match (fits, fits && self.context.quota.take_memory(more)) {
            (false, _) => Some(Refused::Memory),
            (true, false) => Some(Refused::Tenant),
            (true, true) => {
                (self.memory, self.last_memory) = (total, more);
                self.context.holding.grew(more);
                return Ok(true);
            }
        };
        Ok(false)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = Some(Refused::Memory);
        if is_out_of_room(&error) {
            // The system refused a growth that the limits had allowed. That is no fault of the
            // plugin.
            self.refused = Some(Refused::Host);
            let last = std::mem::take(&mut self.last_memory);
            self.memory = self.memory.saturating_sub(last);
            self.context.quota.give_memory(last);
            self.context.holding.shrank(last);
        }
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        let total = self.tables.saturating_add(more);
        let fits = total <= self.context.limits.table_elements_max
            && maximum.is_none_or(|maximum| desired <= maximum);
        if fits {
            (self.tables, self.last_table) = (total, more);
        } else {
            self.refused = Some(Refused::Tables);
        }
        Ok(fits)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = Some(Refused::Tables);
        if is_out_of_room(&error) {
            // As for a memory, the refused growth does not count.
            self.refused = Some(Refused::Host);
            self.tables = self.tables.saturating_sub(std::mem::take(&mut self.last_table));
        }
        Ok(())
    }

    fn instances(&self) -> usize {
        self.context.limits.core_instances_max
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.context.quota.give_memory(self.memory);
        self.context.holding.shrank(self.memory);
    }
}

/// The CPU time of the running event.
#[derive(Default)]
pub(super) struct CpuClock {
    used: Duration,
    max: Duration,
    /// Start of the running slice, in nanoseconds of the thread's CPU time. 0: the clock was not
    /// read. The future that yields sets this when the guest gets its thread back.
    slice_start: Arc<AtomicU64>,
}

impl CpuClock {
    /// Starts an event.
    pub(super) fn begin(&mut self, max: Duration) {
        self.used = Duration::ZERO;
        self.max = max;
        self.slice_start.store(0, Ordering::Relaxed);
    }

    /// The cell that holds the start of the running slice.
    pub(super) fn slice(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.slice_start)
    }

    /// Counts the slice of a guest that the ticker interrupted. Returns whether the guest may go
    /// on.
    fn tick(&mut self) -> bool {
        let start = self.slice_start.swap(0, Ordering::Relaxed);
        // The first slice of an event has no start. Most events end before the first tick, and
        // reading the clock costs more than many of them. So this slice is charged a whole tick.
        let slice = if start == 0 {
            TICK
        } else {
            Duration::from_nanos(thread_cpu_ns().saturating_sub(start))
        };
        self.used += slice;
        self.used < self.max
    }
}

/// Polls a guest call. While the call waits, the CPU time that other tasks use on its thread is
/// left out of its slice. The call may continue on another thread. `slice` is the cell of the
/// guest's clock.
pub(super) async fn apart_from_others<F: Future>(slice: Arc<AtomicU64>, call: F) -> F::Output {
    let mut call = pin!(call);
    let mut used = None;
    poll_fn(|cx| {
        if let Some(used) = used.take() {
            slice.store(thread_cpu_ns().saturating_sub(used).max(1), Ordering::Relaxed);
        }
        let polled = call.as_mut().poll(cx);
        if polled.is_pending() {
            // Without a start, the slice has not begun, or has ended.
            let start = slice.load(Ordering::Relaxed);
            used = (start != 0).then(|| thread_cpu_ns().saturating_sub(start));
        }
        polled
    })
    .await
}

/// Lets others run, then continues the guest. The engine calls this in a running guest at each
/// tick.
pub(super) fn on_tick(
    mut store: StoreContextMut<'_, HostState>,
) -> wasmtime::Result<UpdateDeadline> {
    match slice_over(store.data_mut()) {
        Some(next_slice) => Ok(UpdateDeadline::YieldCustom(1, Box::pin(next_slice))),
        None => Ok(UpdateDeadline::Interrupt),
    }
}

/// As [`on_tick`], in a host call that takes long.
///
/// # Errors
/// The event has no CPU time left.
pub(super) async fn give_way(store: &mut StoreContextMut<'_, HostState>) -> wasmtime::Result<()> {
    match slice_over(store.data_mut()) {
        Some(next_slice) => {
            next_slice.await;
            Ok(())
        }
        None => Err(Trap::Interrupt.into()),
    }
}

/// Counts a slice. Returns the wait for the next slice, or `None` if the event has no CPU time
/// left.
fn slice_over(guest: &mut HostState) -> Option<impl Future<Output = ()> + Send + use<>> {
    // This guest may be the only one for a while that keeps the ticker awake.
    guest.ticker.touch();
    let (clock, port) = (&mut guest.clock, Arc::clone(&guest.scope.port));
    if !clock.tick() {
        return None;
    }
    let slice_start = Arc::clone(&clock.slice_start);
    Some(async move {
        poll_fn(|cx| port.poll_slice(cx)).await;
        slice_start.store(thread_cpu_ns().max(1), Ordering::Relaxed);
    })
}

fn thread_cpu_ns() -> u64 {
    nanoseconds(thread_time())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{Engine, EngineConfig, InstanceLimits};

    fn limiter(engine: &Engine) -> Limiter {
        let context = Arc::new(Context::of(InstanceLimits::default(), Arc::clone(engine.own())));
        Limiter::new(context)
    }

    /// Errors of the engine when the system refuses memory, within any number of causes.
    fn refusals() -> Vec<wasmtime::Error> {
        let within =
            |depth| (0..depth).fold(refusal(), |error, at| error.context(format!("while {at}")));
        (0..8).map(within).collect()
    }

    fn refusal() -> wasmtime::Error {
        wasmtime::Error::new(std::io::Error::from_raw_os_error(12))
    }

    #[test]
    fn growth_refused_by_system_is_the_hosts_doing() {
        let engine = Engine::new(EngineConfig { sessions_max: 1, ..EngineConfig::default() })
            .expect("an engine");
        for (at, error) in refusals().into_iter().enumerate() {
            let (said, bytes) = (format!("{error:#}"), (at + 1) << 16);
            let mut limiter = limiter(&engine);
            // However often the guest tries, refused memory does not count.
            for _ in 0..2_000 {
                assert!(limiter.memory_growing(0, bytes, None).expect("an answer"), "{said}");
                limiter.memory_grow_failed(refusal()).expect("noted");
                assert_eq!((limiter.refused, limiter.memory), (Some(Refused::Host), 0), "{said}");
            }
            limiter.memory_grow_failed(error).expect("noted");
            assert_eq!(limiter.refused, Some(Refused::Host), "{said}");
            limiter.table_grow_failed(refusal()).expect("noted");
            assert_eq!(limiter.refused, Some(Refused::Host), "{said}");
        }
    }

    #[test]
    fn refused_table_growth_does_not_count() {
        let engine = Engine::new(EngineConfig { sessions_max: 1, ..EngineConfig::default() })
            .expect("an engine");
        let most = limiter(&engine).context.limits.table_elements_max;
        for elements in [1, most / 2, most - 1, most] {
            for error in refusals() {
                let said = format!("{elements} elements: {error:#}");
                let mut limiter = limiter(&engine);
                for _ in 0..100 {
                    assert!(limiter.table_growing(0, elements, None).expect("an answer"), "{said}");
                    limiter.table_grow_failed(refusal()).expect("noted");
                    let found = (limiter.refused.take(), limiter.tables);
                    assert_eq!(found, (Some(Refused::Host), 0), "{said}");
                }
                assert!(limiter.table_growing(0, elements, None).expect("an answer"), "{said}");
                // A growth that the engine refuses by itself was never counted.
                limiter.table_grow_failed(wasmtime::Error::msg("too large")).expect("noted");
                let found = (limiter.refused.take(), limiter.tables);
                assert_eq!(found, (Some(Refused::Tables), elements), "{said}");
                limiter.table_grow_failed(error).expect("noted");
                assert_eq!((limiter.refused.take(), limiter.tables), (Some(Refused::Host), 0));
                // What is left is all of the limit, and no element more.
                assert!(!limiter.table_growing(0, most + 1, None).expect("an answer"), "{said}");
                assert_eq!(limiter.refused.take(), Some(Refused::Tables), "{said}");
                assert!(limiter.table_growing(0, most, None).expect("an answer"), "{said}");
            }
        }
    }

    #[test]
    fn growth_beyond_own_limits_stays_the_plugins() {
        let engine = Engine::new(EngineConfig { sessions_max: 1, ..EngineConfig::default() })
            .expect("an engine");
        let mut limiter = limiter(&engine);
        let most = limiter.context.limits.memory_max_bytes;
        for beyond in [1, 1 << 16, most] {
            assert!(!limiter.memory_growing(0, most + beyond, None).expect("an answer"));
            assert_eq!(limiter.refused.take(), Some(Refused::Memory));
        }
        for said in ["memory growth exceeds memory type's limits", "Memory maximum size exceeded"] {
            limiter.memory_grow_failed(wasmtime::Error::msg(said)).expect("noted");
            assert_eq!(limiter.refused.take(), Some(Refused::Memory), "{said}");
            limiter.table_grow_failed(wasmtime::Error::msg(said)).expect("noted");
            assert_eq!(limiter.refused.take(), Some(Refused::Tables), "{said}");
        }
    }
}
