//! Sessions beside a flood of requests to the control API.

use std::collections::{BTreeMap, HashMap};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use wharf::control::{Control, ControlConfig, Reload};
use wharf::server::{Host, HostConfig};
use wharf::servers::{Plan, PlanError, Servers};
use wharf_tests::load::beside;

use super::{Cli, describe_echo};

/// Measures three kinds of rounds in alternation: without a flood, with a flood of a native
/// responder, and with a flood of the API.
pub(super) fn control(
    host: &Host,
    clients: &tokio::runtime::Runtime,
    cli: &Cli,
    requests: usize,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("control.sock");
    let plan = Plan {
        host: HostConfig::default(),
        stop_grace: Duration::ZERO,
        tenants: BTreeMap::new(),
        servers: vec![("echo".to_owned(), describe_echo(host)?)],
        inherited: HashMap::new(),
    };
    let servers = Servers::start(host.clone(), plan)?;
    let nothing = Reload::new(|_| async { Err(PlanError::mistake("nothing to read")) });
    let config = ControlConfig { socket: socket.clone(), listen: None };
    let _control = Control::start(&config, Arc::clone(&servers), nothing)?;
    let address = servers.get("echo").context("the server")?.address();
    let native = folder.path().join("native.sock");
    beside::answer_natively(&native, &socket)?;
    let time = Duration::from_secs_f64(cli.seconds);
    let conditions = [
        ("no requests", None),
        ("to a native responder", Some(&native)),
        ("to the API", Some(&socket)),
    ];
    let mut seen = conditions.map(|(name, socket)| (name, socket, Histogram::<u64>::new(3), 0));
    for _ in 0..cli.rounds {
        for (_, socket, latency, answers) in &mut seen {
            let flood = socket.map(|socket| {
                Command::new(std::env::current_exe()?)
                    .args(["--seconds", &cli.seconds.to_string(), "flood"])
                    .arg(socket)
                    .arg(requests.to_string())
                    .stdout(Stdio::piped())
                    .spawn()
            });
            latency
                .as_mut()
                .map_err(|error| *error)?
                .add(clients.block_on(beside::paced(address, time))?)?;
            if let Some(flood) = flood {
                *answers += String::from_utf8(flood?.wait_with_output()?.stdout)?
                    .trim()
                    .parse::<usize>()?;
            }
        }
    }
    println!("| requests | a second | sessions' p50 us | p99 us |\n|---|---|---|---|");
    let mut rows = Vec::new();
    for (name, _, latency, answers) in seen {
        let (latency, rate) = (latency?, answers as f64 / cli.rounds as f64 / cli.seconds);
        let row = [0.5, 0.99].map(|share| latency.value_at_quantile(share));
        println!("| {name} | {rate:.0} | {} | {} |", row[0], row[1]);
        rows.push(row);
    }
    let ratio = |one: usize, other: usize, at: usize| rows[one][at] as f64 / rows[other][at] as f64;
    println!(
        "the API beside no requests: {:.2} at p50, {:.2} at p99",
        ratio(2, 0, 0),
        ratio(2, 0, 1)
    );
    println!(
        "the API beside the native responder: {:.2} at p50, {:.2} at p99",
        ratio(2, 1, 0),
        ratio(2, 1, 1)
    );
    Ok(())
}
