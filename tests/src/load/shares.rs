//! The shares of the CPU: of tenants of one class, and of background sessions beside critical ones
//! that take all CPU time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use wharf::event::Priority;
use wharf::sched::BudgetChange;
use wharf::server::{Host, Server, ServerHandle};

use crate::guests::{component, file, root};

/// Sessions of the tenant with many sessions.
const CROWD: usize = 100;
const TENANTS: usize = 8;
/// Time that all clients are at work before the measurement.
const WARM_UP: Duration = Duration::from_millis(4_000);

/// Starts a server of a tenant of its own, whose sessions burn CPU time on command.
fn server(host: &Host, tenant: &str, class: Priority) -> Result<ServerHandle> {
    let text = std::fs::read_to_string(root().join("tests/guests/antagonist.wat"))?;
    let hour = Some(Duration::from_secs(3_600));
    let endless = BudgetChange {
        fuel: Some(1_000_000_000_000),
        cpu: hour,
        wall: hour,
        ..BudgetChange::default()
    };
    let server = Server::builder().host(host).name(tenant).tenant(tenant).local_host("127.0.0.1");
    let server =
        server.priority(class).budget(class, endless).plugin(file("antagonist", &component(&text)));
    Ok(server.start()?)
}

/// Starts clients that send the order again after each answer, until `stop`.
fn burn(address: SocketAddr, clients: usize, order: u8, stop: &Arc<AtomicBool>) -> Result<()> {
    for _ in 0..clients {
        let (mut stream, stop) = (TcpStream::connect(address)?, Arc::clone(stop));
        stream.set_nodelay(true)?;
        let work = move || {
            let mut answer = [0; 1];
            while !stop.load(Ordering::Relaxed) && stream.write_all(&[order]).is_ok() {
                if stream.read_exact(&mut answer).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().stack_size(64 << 10).spawn(work)?;
    }
    Ok(())
}

/// CPU time that the sessions of a server have used, in seconds.
fn cpu(server: &ServerHandle) -> f64 {
    let live: Duration = server.sessions(0, 1_000).iter().map(|session| session.stats.cpu).sum();
    (live + server.counters().spent.cpu).as_secs_f64()
}

/// The CPU share of each server during the measurement, in CPUs.
fn measure(servers: &[ServerHandle], time: Duration) -> Vec<f64> {
    thread::sleep(WARM_UP);
    let (before, start): (Vec<_>, _) = (servers.iter().map(cpu).collect(), Instant::now());
    thread::sleep(time);
    let lasted = start.elapsed().as_secs_f64();
    servers.iter().zip(before).map(|(server, before)| (cpu(server) - before) / lasted).collect()
}

/// Measures the shares and prints them.
///
/// # Errors
/// A server or a client failed.
pub fn run(host: &Host, time: Duration) -> Result<()> {
    println!(
        "| event | CPUs of the tenant with {CROWD} sessions | of those with one | furthest from an \
         equal share |"
    );
    println!("|---|---|---|---|");
    for (name, order) in
        [("loops, 20 ms", b'L'), ("host calls, 3 ms", b'H'), ("random walk, 4 ms", b'R')]
    {
        let servers: Result<Vec<_>> = (0..TENANTS)
            .map(|tenant| server(host, &format!("tenant-{tenant}"), Priority::Normal))
            .collect();
        let (servers, stop) = (servers?, Arc::new(AtomicBool::new(false)));
        for (number, server) in servers.iter().enumerate() {
            burn(server.address(), if number == 0 { CROWD } else { 1 }, order, &stop)?;
        }
        let had = measure(&servers, time);
        stop.store(true, Ordering::Relaxed);
        let equal = had.iter().sum::<f64>() / had.len() as f64;
        let off = had.iter().map(|had| (had / equal - 1.0).abs()).fold(0.0, f64::max);
        let ones: Vec<_> = had[1..].iter().map(|had| format!("{had:.3}")).collect();
        println!("| {name} | {:.3} | {} | {:.0} % |", had[0], ones.join(" "), off * 100.0);
    }
    let servers = [
        server(host, "critical", Priority::Critical)?,
        server(host, "background", Priority::Background)?,
    ];
    let stop = Arc::new(AtomicBool::new(false));
    for server in &servers {
        burn(server.address(), 8, b'L', &stop)?;
    }
    let had = measure(&servers, time.max(Duration::from_secs(5)));
    stop.store(true, Ordering::Relaxed);
    println!(
        "eight critical sessions had {:.3} CPUs, eight background ones {:.4} beside them",
        had[0], had[1]
    );
    Ok(())
}
