//! The contract's own imports for flat instances.

use std::task::{Context, Poll};
use std::time::Instant;

use wasmtime::{AsContextMut, Caller, Result as Engine};

use super::abi::{Bytes, Text};
use super::functions::{Functions, Waiting, charge, memory};
use crate::plugin::bindings::{NameError, Priority, SendError, WriteError, client_info};
use crate::plugin::host_state::{HostState, give_way};
use crate::plugin::imports::{BROADCAST_STEP, BROADCAST_STEPS_MAX, CALL_FUEL};
use crate::plugin::ticker::TICK;

const SESSION: &str = "wharf:server/session@0.1";
const SERVER: &str = "wharf:server/server@0.1";

type Guest<'a> = Caller<'a, HostState>;

/// Adds all functions of the contract.
pub(super) fn add(to: &mut Functions) {
    session(to);
    server(to);
}

fn session(to: &mut Functions) {
    to.call(SESSION, "info", |guest: &mut Guest<'_>, (): ()| {
        let port = &guest.data().scope.port;
        Ok(client_info(port.info(), port.priority()))
    });
    to.call(SESSION, "write-capacity", |guest: &mut Guest<'_>, (): ()| {
        Ok(guest.data().scope.port.write_capacity())
    });
    to.call(SESSION, "set-priority", |guest: &mut Guest<'_>, (priority,): (Priority,)| {
        Ok(Priority::from(guest.data().scope.port.set_priority(priority.into())))
    });
    to.call(SESSION, "set-timer", |guest: &mut Guest<'_>, (id, after_ms): (u32, u64)| {
        Ok(guest.data().scope.port.set_timer(id, after_ms))
    });
    to.poll(SESSION, "write", write);
}

fn server(to: &mut Functions) {
    to.call(SERVER, "client-count", |guest: &mut Guest<'_>, (): ()| {
        Ok(guest.data().scope.peers.client_count())
    });
    to.call(SERVER, "disconnect", |guest: &mut Guest<'_>, (client,): (u64,)| {
        let scope = &guest.data().scope;
        Ok(scope.peers.disconnect(scope.port.info().id, client))
    });
    to.call(SERVER, "send-to", |guest: &mut Guest<'_>, (client, data): (u64, Bytes)| {
        let memory = memory(guest)?;
        let sent = guest.data().scope.peers.send_to(client, data.of(memory.data(&*guest)));
        Ok(sent.map_err(SendError::from))
    });
    to.call(SERVER, "set-name", |guest: &mut Guest<'_>, (name,): (Text,)| {
        let memory = memory(guest)?;
        let named = {
            let (name, scope) = (name.of(memory.data(&*guest))?, &guest.data().scope);
            scope.peers.set_name(scope.port.info().id, name)
        };
        Ok(named.map_err(NameError::from))
    });
    to.call(SERVER, "find", |guest: &mut Guest<'_>, (name,): (Text,)| {
        let memory = memory(guest)?;
        let found = guest.data().scope.peers.find(name.of(memory.data(&*guest))?);
        Ok(found)
    });
    to.wait(SERVER, "broadcast", broadcast);
}

/// Writes to the session. Lends the guest's own memory, so that a large write is not copied.
fn write(
    guest: &mut Guest<'_>,
    (data,): (Bytes,),
    cx: &mut Context<'_>,
) -> Poll<Engine<Result<(), WriteError>>> {
    let memory = match memory(guest) {
        Ok(memory) => memory,
        Err(error) => return Poll::Ready(Err(error)),
    };
    let written = guest.data().scope.port.poll_write(cx, data.of(memory.data(&*guest)));
    written.map(|written| Ok(written.map_err(WriteError::from)))
}

/// Sends to many sessions. Lets others run each time that it has used a slice or woken many
/// sessions.
fn broadcast<'a>(guest: &'a mut Guest<'_>, (data,): (Bytes,)) -> Waiting<'a, u32> {
    Box::pin(async move {
        // Each receiver is charged about as much as a call of its own.
        let receivers = guest.data().scope.peers.client_count();
        charge(guest, u64::from(receivers).saturating_mul(CALL_FUEL))?;
        let memory = memory(guest)?;
        let mut broadcast = {
            let scope = &guest.data().scope;
            scope.peers.broadcast(scope.port.info().id, data.of(memory.data(&*guest)))
        };
        let (mut start, mut steps) = (Instant::now(), 0);
        while broadcast.go_on(BROADCAST_STEP) {
            steps += 1;
            if steps == BROADCAST_STEPS_MAX || start.elapsed() >= TICK {
                give_way(&mut guest.as_context_mut()).await?;
                (start, steps) = (Instant::now(), 0);
            }
        }
        Ok(broadcast.taken())
    })
}
