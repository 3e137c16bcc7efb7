//! The engine without Wharf, to measure Wharf's cost against.
//!
//! Each client has a tokio task and an instance, and each read is a call. There are no limits, no
//! run permits and no backpressure. Fuel, interruptions and fibers are options.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use wasmtime::component::{
    Component, ComponentType, Instance, InstancePre, Lift, Linker, Lower, TypedFunc,
};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};

/// Most bytes of one read, as for `on-read`.
const BUFFER_BYTES: usize = 64 << 10;
/// Most instances at once.
const INSTANCES_MAX: u32 = 256;
/// Fuel of one event.
const FUEL: u64 = 10_000_000;
/// The export that handles events.
const EVENT_PROCEDURE: &str = "wharf:server/inet-event-proc@0.1.0";

/// The metering of a running guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metering {
    /// Nothing.
    None,
    /// Fuel.
    Fuel,
    /// Fuel, and interruptions by epochs.
    FuelAndEpochs,
    /// Fuel and interruptions, and each event runs on a fiber, so that it can be suspended.
    Interruptible,
}

#[derive(ComponentType, Lift, Clone, Copy, Debug)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "made by the guest only")]
enum Action {
    #[component(name = "proceed")]
    Proceed,
    #[component(name = "close")]
    Close,
    #[component(name = "abort")]
    Abort,
}

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "every write is taken")]
enum WriteError {
    #[component(name = "closed")]
    Closed,
    #[component(name = "too-large")]
    TooLarge,
    #[component(name = "timed-out")]
    TimedOut,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
#[allow(dead_code, reason = "there are no settings")]
enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

/// A plugin on a bare engine.
#[derive(Clone)]
pub struct Bare {
    engine: Engine,
    pre: Arc<InstancePre<Vec<u8>>>,
    metering: Metering,
}

/// One instance, with the bytes that it has written.
pub struct BareInstance {
    store: Store<Vec<u8>>,
    on_read: TypedFunc<(Vec<u8>,), (Action,)>,
    metering: Metering,
}

impl Bare {
    /// Loads a component.
    ///
    /// # Errors
    /// The file cannot be read, or the engine refuses the component.
    pub fn load(component: &Path, metering: Metering) -> Result<Self> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(INSTANCES_MAX)
            .total_memories(INSTANCES_MAX)
            .total_core_instances(INSTANCES_MAX * 8)
            .total_tables(INSTANCES_MAX * 4);
        let mut config = Config::new();
        config
            .concurrency_support(false)
            .gc_support(false)
            .wasm_gc(false)
            .wasm_function_references(false)
            .consume_fuel(metering != Metering::None)
            .epoch_interruption(matches!(
                metering,
                Metering::FuelAndEpochs | Metering::Interruptible
            ))
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        let component = Component::from_file(&engine, component)?;
        let mut linker: Linker<Vec<u8>> = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&component)?;
        linker.allow_shadowing(true);
        linker.instance("wharf:server/session@0.1.0")?.func_wrap(
            "write",
            |mut store: wasmtime::StoreContextMut<'_, Vec<u8>>,
             (data,): (wasmtime::component::WasmList<u8>,)| {
                let data = data.as_le_slice(&store).to_vec();
                store.data_mut().extend_from_slice(&data);
                Ok((Ok::<(), WriteError>(()),))
            },
        )?;
        linker
            .instance("wasi:config/store@0.2.0-rc.1")?
            .func_wrap("get", |_, (_,): (String,)| {
                Ok((Ok::<Option<String>, ConfigError>(None),))
            })?;
        Ok(Self { pre: Arc::new(linker.instantiate_pre(&component)?), engine, metering })
    }

    /// Makes an instance.
    ///
    /// # Errors
    /// The engine cannot make one.
    pub fn instance(&self) -> Result<BareInstance> {
        let mut store = Store::new(&self.engine, Vec::new());
        // Without metering this call fails, and nothing needs to be set.
        let _ = store.set_fuel(u64::MAX);
        store.set_epoch_deadline(u64::MAX / 2);
        let instance: Instance = self.pre.instantiate(&mut store)?;
        let exports = instance
            .get_export_index(&mut store, None, EVENT_PROCEDURE)
            .context("it is a plugin")?;
        let on_read =
            instance.get_export_index(&mut store, Some(&exports), "on-read").context("it reads")?;
        let on_read = instance.get_typed_func(&mut store, on_read)?;
        Ok(BareInstance { store, on_read, metering: self.metering })
    }

    /// Serves on any free port, until the runtime ends.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn serve(self, runtime: &Handle) -> Result<SocketAddr> {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(instance) = self.instance() else { continue };
                tokio::spawn(talk(stream, instance));
            }
        });
        Ok(address)
    }
}

impl BareInstance {
    /// Calls the guest with some bytes. Returns the bytes that it wrote.
    ///
    /// # Errors
    /// The guest trapped.
    pub fn read(&mut self, data: &[u8]) -> Result<&mut Vec<u8>> {
        self.store.data_mut().clear();
        self.on_read.call(&mut self.store, (data.to_vec(),))?;
        Ok(self.store.data_mut())
    }

    /// Calls the guest with some bytes, on a fiber if the metering is interruptible.
    ///
    /// # Errors
    /// The guest trapped.
    async fn serve(&mut self, data: &[u8]) -> Result<&mut Vec<u8>> {
        if self.metering != Metering::Interruptible {
            return self.read(data);
        }
        self.store.data_mut().clear();
        self.store.set_fuel(FUEL)?;
        self.on_read.call_async(&mut self.store, (data.to_vec(),)).await?;
        Ok(self.store.data_mut())
    }
}

async fn talk(mut stream: TcpStream, mut instance: BareInstance) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        let Ok(answer) = instance.serve(&buffer[..count]).await else { return };
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}
