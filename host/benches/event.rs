//! The cost of an event, without sockets, and of an instance.
//!
//!     cargo bench -p wharf
//!
//! - Events are empty, 64 B, 4 KiB and 64 KiB long and go through the echo plugin.
//! - They go to one session, or to many sessions one after another.
//! - An instance is measured from its start to its drop.

use std::future::Future;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wharf::event::{
    ClientInfo, Event, Instance, NoPeers, Port, Priority, Procedure, Scope, WriteError,
};
use wharf::plugin::{
    Binding, Engine, EngineConfig, EventProcedure, Grants, Loader, Manifest, PluginInstance,
};
use wharf::sched::Budgets;

/// A session that takes every write and keeps nothing.
struct Sink(ClientInfo);

impl Port for Sink {
    fn info(&self) -> &ClientInfo {
        &self.0
    }
    fn poll_write(&self, _: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>> {
        black_box(data.len());
        Poll::Ready(Ok(()))
    }
    fn write_capacity(&self) -> u32 {
        u32::MAX
    }
    fn priority(&self) -> Priority {
        Priority::Normal
    }
    fn set_priority(&self, priority: Priority) -> Priority {
        priority
    }
    fn set_timer(&self, _: u32, _: u64) -> bool {
        true
    }
}

/// Polls a future until it is done. Guests yield at times because of the ticker; nothing else here
/// waits.
fn finish<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
}

fn procedure() -> EventProcedure {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/echo");
    let manifest = Manifest::read(&folder).expect("the echo plugin");
    manifest.run_build_blocking().expect("the echo plugin builds");
    let engine = Engine::new(EngineConfig { sessions_max: 2_000, ..EngineConfig::default() })
        .expect("an engine");
    let grants: Grants = manifest.grants.iter().copied().collect();
    let loader = Loader::without_cache(engine).with_core_modules(true);
    let plugin = loader.load(&folder, &grants).expect("the echo plugin loads");
    EventProcedure::new(Arc::new(plugin), Binding { server: "bench".into(), ..Binding::default() })
}

fn instance(procedure: &EventProcedure) -> PluginInstance {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let info = ClientInfo {
        id: 1,
        server: "bench".into(),
        peer: address,
        local: address,
        tls: None,
        parameter: 0,
    };
    let scope = Scope { port: Arc::new(Sink(info)), peers: Arc::new(NoPeers) };
    finish(procedure.instantiate(scope, Budgets::default().start(Priority::Normal)))
        .expect("an instance")
}

fn dispatch(instance: &mut PluginInstance, event: Event<'_>) {
    black_box(
        finish(instance.dispatch(event, Budgets::default().event(Priority::Normal)))
            .expect("no fault"),
    );
}

fn events(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _inside = runtime.enter();
    let procedure = procedure();
    let mut group = criterion.benchmark_group("event");
    for sessions in [1, 64, 1_000] {
        let mut instances: Vec<_> = (0..sessions).map(|_| instance(&procedure)).collect();
        let mut at = 0;
        let mut next = move || {
            at = (at + 1) % sessions;
            at
        };
        group.bench_function(BenchmarkId::new("empty", sessions), |bencher| {
            bencher.iter(|| dispatch(&mut instances[next()], Event::Write));
        });
        for bytes in [64, 4 << 10, 64 << 10] {
            let data = vec![7; bytes];
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(
                BenchmarkId::new(format!("echo {bytes} B"), sessions),
                |bencher| {
                    bencher.iter(|| dispatch(&mut instances[next()], Event::Read(&data)));
                },
            );
        }
    }
    group.finish();
    criterion.bench_function("instantiate and drop", |bencher| {
        bencher.iter(|| drop(black_box(instance(&procedure))));
    });
    criterion.bench_function("instantiate, one event, drop", |bencher| {
        bencher.iter(|| dispatch(&mut instance(&procedure), Event::Read(b"hello")));
    });
}

criterion_group!(benches, events);
criterion_main!(benches);
