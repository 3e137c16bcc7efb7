//! A thousand clients that talk all the time while their server is suspended, throttled and
//! restarted again and again. The test is a process of its own, because it counts the resources of
//! the process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wharf::admission::Change;
use wharf::net::SocketOptions;
use wharf::plugin::Grants;
use wharf::server::{Host, HostConfig, NewConnections, Server, ServerEnding, ServerHandle, Status};
use wharf_tests::guests::{component, file};
use wharf_tests::servers::eventually;

const CLIENTS: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(100);

/// Counters of all clients.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    echoes: AtomicU64,
    connections: AtomicU64,
    /// Echoes that differed, and connections that failed.
    wrong: AtomicU64,
}

/// Talks until `stop` is set. The client connects again whenever the server ends its session.
async fn talk(address: SocketAddr, number: usize, seen: Arc<Seen>) {
    while !seen.stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            // The server never unbinds the listener, so a failure breaks a promise.
            seen.wrong.fetch_add(1, Ordering::Relaxed);
            return;
        };
        seen.connections.fetch_add(1, Ordering::Relaxed);
        for step in 0_u32.. {
            let message = format!("{number:04}:{step:06}");
            let mut echo = vec![0; message.len()];
            let exchanged = async {
                stream.write_all(message.as_bytes()).await?;
                stream.read_exact(&mut echo).await
            };
            if exchanged.await.is_err() {
                break;
            }
            seen.echoes.fetch_add(1, Ordering::Relaxed);
            if echo != message.as_bytes() {
                seen.wrong.fetch_add(1, Ordering::Relaxed);
            }
            if seen.stop.load(Ordering::Relaxed) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

fn tasks() -> usize {
    std::fs::read_dir("/proc/self/task").expect("threads").count()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

/// Waits until all clients are connected and talk.
fn settled(server: &ServerHandle, seen: &Seen) {
    eventually("all clients are in", || server.session_count() as usize == CLIENTS);
    let before = seen.echoes.load(Ordering::Relaxed);
    eventually("they talk", || seen.echoes.load(Ordering::Relaxed) > before + 10);
}

#[test]
fn thousand_sessions_outlive_steering_and_nothing_leaks() {
    let host =
        Host::new(&HostConfig { workers: 2, sessions_max: CLIENTS + 100, ..HostConfig::default() })
            .expect("a host");
    let plugin =
        host.loader().load(&file("steady", &component("")), &Grants::none()).expect("a plugin");
    let options = SocketOptions { no_delay: true, ..SocketOptions::default() };
    let server = Server::builder()
        .host(&host)
        .local_host("127.0.0.1")
        .options(options)
        .loaded_plugin(Arc::new(plugin));
    let server = server.start().expect("it starts");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let run = |work: std::pin::Pin<Box<dyn Future<Output = bool> + Send + '_>>| {
        host.runtime().block_on(work)
    };

    // Twice, because resources that the process takes for good in the first pass do not grow in the
    // second.
    let mut sizes = Vec::new();
    let before = (descriptors(), tasks());
    for round in 0..2 {
        let seen = Arc::new(Seen::default());
        let talking: Vec<_> = (0..CLIENTS)
            .map(|number| runtime.spawn(talk(server.address(), number, Arc::clone(&seen))))
            .collect();
        settled(&server, &seen);
        let connections = seen.connections.load(Ordering::Relaxed);
        for pair in 0..50 {
            let new_clients =
                if pair % 2 == 0 { NewConnections::Queue } else { NewConnections::Reject };
            assert!(run(Box::pin(async { server.suspend(new_clients, None).await.is_ok() })));
            assert_eq!(server.status(), Status::Suspended);
            let change = Change {
                max_clients: Some(CLIENTS + pair),
                max_per_address: Some(0),
                ..Change::default()
            };
            server.set_throttle(change).expect("limits");
            server.resume().expect("it runs");
        }
        settled(&server, &seen);
        // No session inside was interrupted.
        assert_eq!(seen.connections.load(Ordering::Relaxed), connections);
        server
            .set_throttle(Change { max_clients: Some(0), ..Change::default() })
            .expect("no limit");
        for _ in 0..10 {
            assert!(run(Box::pin(async { server.restart(ServerEnding::AtOnce).await == Ok(0) })));
            settled(&server, &seen);
        }
        seen.stop.store(true, Ordering::Relaxed);
        for one in talking {
            runtime.block_on(one).expect("no panic");
        }
        assert_eq!(seen.wrong.load(Ordering::Relaxed), 0, "in round {round}");
        eventually("all clients left", || server.clients() == 0);
        eventually("nothing is left open", || descriptors() <= before.0 + 2);
        sizes.push(resident_kib());
    }
    assert!(tasks() <= before.1 + 4, "{} threads, {} before", tasks(), before.1);
    // A leak of a kilobyte in each of the 10,000 sessions of a pass would show.
    assert!(sizes[1] < sizes[0] + 8_000, "resident KiB after each round: {sizes:?}");
    let counters = server.counters();
    assert_eq!(counters.accepted, counters.ended.values().sum::<u64>(), "{counters:?}");
    assert!(counters.faults.is_empty(), "{counters:?}");
}
