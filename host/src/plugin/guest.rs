//! What belongs to one instance on the host's side: its session, its limits, its clock, its WASI.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, StoreContextMut, Trap, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::instance::Context;
use super::output::{Tap, WhichStream};
use super::ticker::{TICK, Ticker};
use crate::event::Scope;
use crate::sched::{nanoseconds, thread_time};

/// Handles a guest may hold in its WASI table.
const WASI_HANDLES_MAX: usize = 1_024;
/// The id that no session has.
const NOBODY: u64 = 0;
/// Bytes of randomness per call.
const RANDOM_MAX_BYTES: u64 = 64 << 10;

/// The data of one instance's store.
pub(super) struct Guest {
    pub(super) scope: Scope,
    pub(super) context: Arc<Context>,
    pub(super) limiter: Limiter,
    pub(super) clock: CpuClock,
    ticker: Ticker,
    /// The session whose event it handles, or handled last.
    speaker: Arc<AtomicU64>,
    /// Made at the first use: most instances never touch WASI.
    wasi: Option<Box<Wasi>>,
}

struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
}

impl Guest {
    pub(super) fn new(scope: Scope, context: Arc<Context>, ticker: Ticker) -> Self {
        let limiter = Limiter { context: Arc::clone(&context), memory: 0, tables: 0, refused: None };
        let speaker = Arc::new(AtomicU64::new(scope.port.info().id));
        Self { scope, context, limiter, clock: CpuClock::default(), ticker, speaker, wasi: None }
    }

    /// From now on it acts on this session, and speaks in its name.
    pub(super) fn serve(&mut self, scope: Scope) {
        let id = scope.port.info().id;
        self.scope = scope;
        if id != NOBODY {
            self.speaker.store(id, Ordering::Relaxed);
        }
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.get_or_insert_with(|| {
            let tap = |stream| Tap::new(Arc::clone(&self.context), Arc::clone(&self.speaker), stream);
            let mut builder = WasiCtx::builder();
            builder.stdout(tap(WhichStream::Stdout)).stderr(tap(WhichStream::Stderr));
            builder.max_random_size(RANDOM_MAX_BYTES).allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
            let mut table = ResourceTable::new();
            table.set_max_capacity(WASI_HANDLES_MAX);
            Box::new(Wasi { ctx: builder.build(), table })
        });
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

/// Keeps an instance's memory and tables below their limits, all of its memories and tables together, and its memory within
/// what its tenant has left. Gives that back when the instance goes.
pub(super) struct Limiter {
    context: Arc<Context>,
    pub(super) memory: usize,
    tables: usize,
    /// A growth was refused; a trap soon after is explained by it.
    pub(super) refused: Option<Refused>,
}

/// What a growth was refused for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The instance's memory.
    Memory,
    /// Its tenant's memory.
    Tenant,
    /// The instance's tables.
    Tables,
    /// The memory of the process.
    Host,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        let total = self.memory.saturating_add(more);
        let fits = total <= self.context.limits.memory_max_bytes && maximum.is_none_or(|maximum| desired <= maximum);
        if fits && more > 0 && !self.context.holding.may_grow(more) {
            self.refused = Some(Refused::Host);
            return Ok(false);
        }
        self.refused = match (fits, fits && self.context.account.take_memory(more)) {
            (false, _) => Some(Refused::Memory),
            (true, false) => Some(Refused::Tenant),
            (true, true) => {
                self.memory = total;
                return Ok(true);
            }
        };
        Ok(false)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = Some(Refused::Memory);
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.tables.saturating_add(desired.saturating_sub(current));
        let fits = total <= self.context.limits.table_elements_max && maximum.is_none_or(|maximum| desired <= maximum);
        if fits {
            self.tables = total;
        } else {
            self.refused = Some(Refused::Tables);
        }
        Ok(fits)
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = Some(Refused::Tables);
        Ok(())
    }

    fn instances(&self) -> usize {
        self.context.limits.core_instances_max
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.context.account.give_memory(self.memory);
    }
}

/// The CPU time of the event in flight.
#[derive(Default)]
pub(super) struct CpuClock {
    used: Duration,
    max: Duration,
    /// When the running slice started, in nanoseconds of its thread's CPU time; 0 where nobody looked. The future
    /// that yields sets it when the guest gets its thread back.
    slice_start: Arc<AtomicU64>,
}

impl CpuClock {
    /// An event starts.
    pub(super) fn begin(&mut self, max: Duration) {
        self.used = Duration::ZERO;
        self.max = max;
        self.slice_start.store(0, Ordering::Relaxed);
    }

    /// Where the start of its running slice stands.
    pub(super) fn slice(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.slice_start)
    }

    /// The guest was interrupted by the tick: counts its slice, and says whether it may go on.
    fn tick(&mut self) -> bool {
        let start = self.slice_start.swap(0, Ordering::Relaxed);
        // An event's first slice has no start, because most events end before the first tick and reading the clock
        // costs more than many of them. It is charged a whole tick.
        let slice = if start == 0 { TICK } else { Duration::from_nanos(thread_cpu_ns().saturating_sub(start)) };
        self.used += slice;
        self.used < self.max
    }
}

/// Polls a call of a guest, and leaves out of its slice what others use of its thread while the
/// call waits. It may go on on another thread. `slice` is that of the guest's clock.
pub(super) async fn apart_from_others<F: Future>(slice: Arc<AtomicU64>, call: F) -> F::Output {
    let mut call = pin!(call);
    let mut used = None;
    poll_fn(|cx| {
        if let Some(used) = used.take() {
            slice.store(thread_cpu_ns().saturating_sub(used).max(1), Ordering::Relaxed);
        }
        let polled = call.as_mut().poll(cx);
        if polled.is_pending() {
            // Without a start the slice has not begun, or has ended.
            let start = slice.load(Ordering::Relaxed);
            used = (start != 0).then(|| thread_cpu_ns().saturating_sub(start));
        }
        polled
    })
    .await
}

/// Called by the engine in a running guest at each tick: lets others run, then goes on.
pub(super) fn on_tick(mut store: StoreContextMut<'_, Guest>) -> wasmtime::Result<UpdateDeadline> {
    match slice_over(store.data_mut()) {
        Some(turn) => Ok(UpdateDeadline::YieldCustom(1, Box::pin(turn))),
        None => Ok(UpdateDeadline::Interrupt),
    }
}

/// The same in a host call that takes long.
///
/// # Errors
/// The event has no CPU time left.
pub(super) async fn give_way(store: &mut StoreContextMut<'_, Guest>) -> wasmtime::Result<()> {
    match slice_over(store.data_mut()) {
        Some(turn) => {
            turn.await;
            Ok(())
        }
        None => Err(Trap::Interrupt.into()),
    }
}

/// Counts a slice. The wait for the next one, where the event may have it.
fn slice_over(guest: &mut Guest) -> Option<impl Future<Output = ()> + Send + use<>> {
    // Nobody else may say for a while that a guest runs.
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
