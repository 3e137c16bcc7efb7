//! Save and restore: the two calls by which a session moves from one instance to another.

use super::handoff_exports::Handoff;
use super::read_only_port::quiet;
use super::store::{Guest, PluginStore, begin, spent};
use super::trap::fault;
use crate::event::{Budget, Fault, FaultKind, Scope};
use crate::telemetry::drives_reader;

impl PluginStore {
    /// Returns the state that another instance needs to continue the session, and the fuel spent.
    pub(super) async fn save(
        &mut self,
        handoff: &Handoff,
        max: usize,
        budget: Budget,
    ) -> Result<(Vec<u8>, u64), Fault> {
        let scope = self.store.data().scope.clone();
        self.store.data_mut().serve(quiet(&scope));
        // A state that is moderately too large reaches the check below, which reports its size.
        self.store.set_hostcall_fuel(max.saturating_mul(2).max(CARRIED_MIN_BYTES));
        let saved = self
            .call_save(handoff, budget)
            .await
            .map_err(|error| fault(&error, &mut self.store))?;
        self.store.set_hostcall_fuel(self.store.data().context.limits.copy_max_bytes);
        self.store.data_mut().serve(scope);
        if saved.len() > max {
            let detail = format!("it saved {} bytes, and {max} are allowed", saved.len());
            return Err(Fault::new(FaultKind::StateLimit, detail));
        }
        Ok((saved, spent(&self.store, budget)))
    }

    async fn call_save(&mut self, handoff: &Handoff, budget: Budget) -> wasmtime::Result<Vec<u8>> {
        begin(&mut self.store, budget)?;
        self.store.data_mut().limiter.refused = None;
        match &self.guest {
            Guest::Flat(flat) => flat.save(&mut self.store).await,
            Guest::Component { instance, .. } => {
                let save =
                    instance.get_typed_func::<(), (Vec<u8>,)>(&mut self.store, &handoff.save)?;
                Ok(save.call_async(&mut self.store, ()).await?.0)
            }
        }
    }

    /// Gives the session in `scope` to this instance, which acts on it from then on. Returns the
    /// fuel spent.
    pub(super) async fn restore(
        &mut self,
        handoff: &Handoff,
        scope: Scope,
        version: &str,
        state: Vec<u8>,
        budget: Budget,
    ) -> Result<u64, Fault> {
        self.store.data_mut().serve(quiet(&scope));
        let restored = self.call_restore(handoff, version, state, budget).await;
        let refused = restored.map_err(|error| fault(&error, &mut self.store))?;
        self.store.data_mut().serve(scope);
        match refused {
            None => Ok(spent(&self.store, budget)),
            Some(why) => Err(Fault::new(FaultKind::HandoffRefused, printable(&why))),
        }
    }

    async fn call_restore(
        &mut self,
        handoff: &Handoff,
        version: &str,
        state: Vec<u8>,
        budget: Budget,
    ) -> wasmtime::Result<Option<String>> {
        type Refusal = Result<(), String>;
        begin(&mut self.store, budget)?;
        self.store.data_mut().limiter.refused = None;
        match &self.guest {
            Guest::Flat(flat) => flat.restore(&mut self.store, version.to_owned(), state).await,
            Guest::Component { instance, .. } => {
                let restore = instance.get_typed_func::<(&str, Vec<u8>), (Refusal,)>(
                    &mut self.store,
                    &handoff.restore,
                )?;
                Ok(restore.call_async(&mut self.store, (version, state)).await?.0.err())
            }
        }
    }
}

/// The part of a version's refusal that is kept. Characters that could drive the reader of a log
/// are escaped.
fn printable(why: &str) -> String {
    let mut text = String::new();
    for character in why.chars().take(REFUSAL_CHARS_MAX) {
        match drives_reader(character) {
            true => text.extend(character.escape_default()),
            false => text.push(character),
        }
    }
    text
}

/// Least limit on the bytes of a state while it is copied. The final limit may be lower.
const CARRIED_MIN_BYTES: usize = 64 << 10;
/// Characters of a refusal that are kept.
const REFUSAL_CHARS_MAX: usize = 256;
