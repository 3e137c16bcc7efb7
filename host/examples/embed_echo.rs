//! Starts a server from code, and stops the server when standard input ends.
//!
//! ```text
//! cargo run -p wharf -- build plugins/echo
//! cargo run -p wharf --example embed_echo -- plugins/echo
//! ```

use std::error::Error;
use std::io::Read;
use std::time::Duration;

use wharf::net::{ListenPort, SocketOptions};
use wharf::plugin::{Grant, Grants, InstanceLimits};
use wharf::server::{Host, HostConfig, Server, ServerHandle};

/// How long sessions may take to end when the server stops.
const GRACE: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    let plugin = std::env::args().nth(1).unwrap_or_else(|| "plugins/echo".into());
    let host = start_host()?;
    let server = start_server(&host, &plugin)?;
    println!("listening on {}", server.address());

    // The host's own threads serve the clients. This thread is free for other work.
    std::io::stdin().read_to_end(&mut Vec::new())?;

    server.stop_blocking(GRACE);
    let counters = server.counters();
    println!("stopped: {} accepted, ended by reason {:?}", counters.accepted, counters.ended);
    Ok(())
}

/// A host owns the threads, the engine and the memory of instances. All of its servers share them.
fn start_host() -> Result<Host, Box<dyn Error>> {
    let config = HostConfig { workers: 2, sessions_max: 1_000, ..HostConfig::default() };
    Ok(Host::new(&config)?)
}

/// A value that the builder does not get has the default that its method names.
fn start_server(host: &Host, plugin: &str) -> Result<ServerHandle, Box<dyn Error>> {
    // A plugin that imports more than its grants is refused at load, by name.
    let grants: Grants = [Grant::Stdio].into_iter().collect();
    let server = Server::builder()
        .host(host)
        .name("echo")
        .plugin(plugin)
        .grants(grants)
        .local_host("127.0.0.1")
        .local_port(ListenPort::AnyFree)
        .options(SocketOptions { no_delay: true, ..SocketOptions::default() })
        .max_clients(100)
        .timeout(Duration::from_secs(20))
        .limits(InstanceLimits { memory_max_bytes: 8 << 20, ..InstanceLimits::default() })
        .start()?;
    Ok(server)
}
