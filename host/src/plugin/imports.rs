//! Imports: the calls that a guest can make to its session, to its server, and to the granted WASI
//! interfaces.
//!
//! Every call is charged to the event's fuel, so a storm of cheap calls ends like any other loop.
//! An argument that breaks the canonical ABI, such as text that is not UTF-8, traps. More bytes
//! than `copy_max_bytes` end the event as `copy-limit`. Every other argument gets an answer.

use std::future::poll_fn;
use std::time::Instant;

use wasmtime::StoreContextMut;
use wasmtime::component::{
    Component, ComponentNamedList, HasData, Lift, Linker, LinkerInstance, Lower, ResourceTable,
    WasmList, WasmStr,
};
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView};
use wasmtime_wasi::p2::bindings::{cli, clocks, random};
use wasmtime_wasi::random::WasiRandom;
use wasmtime_wasi::{WasiView, p2};
use wasmtime_wasi_config::WasiConfig;

use super::bindings::{NameError, Priority, SendError, WriteError, client_info};
use super::grants::{Grant, Grants};
use super::host_state::{HostState, give_way};
use super::stubs;
use super::ticker::TICK;

/// Fuel of one host call, in addition to one per carried byte. A call takes about as much time as a
/// hundred operators.
pub(super) const CALL_FUEL: u64 = 100;
/// Receivers of a broadcast between two looks at the clock: some hundredths of a slice.
pub(super) const BROADCAST_STEP: usize = 64;
/// Broadcast steps after which others may run. Each receiver is a task that the thread polls, for
/// some microseconds, before it looks at its sockets again.
pub(super) const BROADCAST_STEPS_MAX: usize = 4;

type Store<'a> = StoreContextMut<'a, HostState>;

/// A linker with all imports that these grants allow to this component.
pub(super) fn linker(
    engine: &wasmtime::Engine,
    grants: &Grants,
    component: &Component,
) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    session(&mut linker.instance("wharf:server/session@0.1.0")?)?;
    if grants.has(Grant::Server) {
        server(&mut linker.instance("wharf:server/server@0.1.0")?)?;
    }
    wasi(&mut linker, grants)?;
    if grants.has(Grant::Stubs) {
        stubs::define(&mut linker, engine, component)?;
    }
    Ok(linker)
}

fn charge(store: &mut Store<'_>, bytes: usize) -> wasmtime::Result<()> {
    let left = store.get_fuel()?.saturating_sub(CALL_FUEL + bytes as u64);
    store.set_fuel(left)
}

/// Adds a call that neither waits nor carries bytes.
fn add<P, R>(
    interface: &mut LinkerInstance<'_, HostState>,
    name: &str,
    call: impl Fn(&mut HostState, P) -> R + Send + Sync + 'static,
) -> wasmtime::Result<()>
where
    P: ComponentNamedList + Lift + 'static,
    R: 'static,
    (R,): ComponentNamedList + Lower,
{
    interface.func_wrap(name, move |mut store: Store<'_>, params: P| {
        charge(&mut store, 0)?;
        Ok((call(store.data_mut(), params),))
    })
}

fn session(interface: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    add(interface, "info", |guest, (): ()| {
        let port = &guest.scope.port;
        client_info(port.info(), port.priority())
    })?;
    add(interface, "write-capacity", |guest, (): ()| guest.scope.port.write_capacity())?;
    add(interface, "set-priority", |guest, (priority,): (Priority,)| {
        Priority::from(guest.scope.port.set_priority(priority.into()))
    })?;
    add(interface, "set-timer", |guest, (id, after_ms): (u32, u64)| {
        guest.scope.port.set_timer(id, after_ms)
    })?;
    interface.func_wrap_async("write", |store: Store<'_>, (data,): (WasmList<u8>,)| {
        Box::new(write(store, data))
    })
}

/// Writes to the session. This is the only call that waits for the peer. It lends the guest's own
/// memory to the session, so that a large write is not copied.
async fn write(
    mut store: Store<'_>,
    data: WasmList<u8>,
) -> wasmtime::Result<(Result<(), WriteError>,)> {
    let port = store.data().scope.port.clone();
    let len = data.as_le_slice(&store).len();
    charge(&mut store, len)?;
    // Borrowed mutably, because the store may move to another thread between two polls.
    let store = &mut store;
    let outcome = poll_fn(move |cx| port.poll_write(cx, data.as_le_slice(&*store))).await;
    Ok((outcome.map_err(WriteError::from),))
}

fn server(interface: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    add(interface, "client-count", |guest, (): ()| guest.scope.peers.client_count())?;
    add(interface, "disconnect", |guest, (client,): (u64,)| {
        guest.scope.peers.disconnect(guest.scope.port.info().id, client)
    })?;
    interface.func_wrap_async("broadcast", |store: Store<'_>, (data,): (WasmList<u8>,)| {
        Box::new(broadcast(store, data))
    })?;
    interface.func_wrap(
        "send-to",
        |mut store: Store<'_>, (client, data): (u64, WasmList<u8>)| {
            let len = data.as_le_slice(&store).len();
            charge(&mut store, len)?;
            let sent = store.data().scope.peers.send_to(client, data.as_le_slice(&store));
            Ok((sent.map_err(SendError::from),))
        },
    )?;
    // The names are lent from the guest's memory. A name that is too long is not copied.
    interface.func_wrap("set-name", |mut store: Store<'_>, (name,): (WasmStr,)| {
        let (bytes, named) = {
            let (name, scope) = (name.to_str(&store)?, &store.data().scope);
            (name.len(), scope.peers.set_name(scope.port.info().id, &name))
        };
        charge(&mut store, bytes)?;
        Ok((named.map_err(NameError::from),))
    })?;
    interface.func_wrap("find", |mut store: Store<'_>, (name,): (WasmStr,)| {
        let (bytes, found) = {
            let name = name.to_str(&store)?;
            (name.len(), store.data().scope.peers.find(&name))
        };
        charge(&mut store, bytes)?;
        Ok((found,))
    })
}

/// Sends to many sessions. Lets others run each time that it has used a slice or woken many
/// sessions.
async fn broadcast(mut store: Store<'_>, data: WasmList<u8>) -> wasmtime::Result<(u32,)> {
    let len = data.as_le_slice(&store).len();
    // Each receiver is charged about as much as a call of its own.
    let receivers = store.data().scope.peers.client_count() as usize;
    charge(&mut store, len.saturating_add(receivers.saturating_mul(CALL_FUEL as usize)))?;
    let mut broadcast = {
        let scope = &store.data().scope;
        scope.peers.broadcast(scope.port.info().id, data.as_le_slice(&store))
    };
    let (mut start, mut steps) = (Instant::now(), 0);
    while broadcast.go_on(BROADCAST_STEP) {
        steps += 1;
        if steps == BROADCAST_STEPS_MAX || start.elapsed() >= TICK {
            give_way(&mut store).await?;
            (start, steps) = (Instant::now(), 0);
        }
    }
    Ok((broadcast.taken(),))
}

struct HasTable;

impl HasData for HasTable {
    type Data<'a> = &'a mut ResourceTable;
}

fn wasi(linker: &mut Linker<HostState>, grants: &Grants) -> wasmtime::Result<()> {
    if grants.has(Grant::Stdio) || grants.has(Grant::Clocks) {
        p2::bindings::io::error::add_to_linker::<HostState, HasTable>(linker, |guest| {
            guest.ctx().table
        })?;
        p2::bindings::io::poll::add_to_linker::<HostState, HasTable>(linker, |guest| {
            guest.ctx().table
        })?;
        p2::bindings::io::streams::add_to_linker::<HostState, HasTable>(linker, |guest| {
            guest.ctx().table
        })?;
    }
    if grants.has(Grant::Stdio) {
        cli::exit::add_to_linker::<HostState, WasiCli>(linker, HostState::cli)?;
        cli::environment::add_to_linker::<HostState, WasiCli>(linker, HostState::cli)?;
        cli::stdin::add_to_linker::<HostState, WasiCli>(linker, HostState::cli)?;
        cli::stdout::add_to_linker::<HostState, WasiCli>(linker, HostState::cli)?;
        cli::stderr::add_to_linker::<HostState, WasiCli>(linker, HostState::cli)?;
        cli::terminal_input::add_to_linker::<HostState, WasiCli>(linker, HostState::cli)?;
        cli::terminal_output::add_to_linker::<HostState, WasiCli>(linker, HostState::cli)?;
        cli::terminal_stdin::add_to_linker::<HostState, WasiCli>(linker, HostState::cli)?;
        cli::terminal_stdout::add_to_linker::<HostState, WasiCli>(linker, HostState::cli)?;
        cli::terminal_stderr::add_to_linker::<HostState, WasiCli>(linker, HostState::cli)?;
    }
    if grants.has(Grant::Clocks) {
        clocks::wall_clock::add_to_linker::<HostState, WasiClocks>(linker, HostState::clocks)?;
        clocks::monotonic_clock::add_to_linker::<HostState, WasiClocks>(linker, HostState::clocks)?;
    }
    if grants.has(Grant::Random) {
        random::random::add_to_linker::<HostState, WasiRandom>(linker, |guest| {
            guest.ctx().ctx.random()
        })?;
        random::insecure::add_to_linker::<HostState, WasiRandom>(linker, |guest| {
            guest.ctx().ctx.random()
        })?;
        random::insecure_seed::add_to_linker::<HostState, WasiRandom>(linker, |guest| {
            guest.ctx().ctx.random()
        })?;
    }
    if grants.has(Grant::Config) {
        wasmtime_wasi_config::add_to_linker(linker, |guest| {
            WasiConfig::from(&guest.context.settings)
        })?;
    }
    Ok(())
}
