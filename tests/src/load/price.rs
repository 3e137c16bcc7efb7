//! The cost of Wharf compared with the engine alone, and the cost of metering for a parser.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::bare::{Bare, BareInstance, Metering};
use super::report::median;

/// A request of a browser.
const REQUEST: &[u8] = b"GET /index.html?from=here HTTP/1.1\r\nHost: \
    www.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux \
    x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: \
    text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\
    \r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nConnection: \
    keep-alive\r\nCookie: \
    session=0123456789abcdef0123456789abcdef; theme=dark\r\nUpgrade-Insecure-Requests: 1\r\n\r\n";
/// Requests of one read. Many, so that the measurement is of the parser and not of the call.
const PIPELINED: usize = 32;
/// Reads of one round.
const READS: u32 = 500;

/// One row: rates, and medians of the rounds' ratios. Each round has four rates: the native echo,
/// the engine alone, the engine with the metering of event budgets, and Wharf.
#[must_use]
pub fn row(name: &str, rounds: &[[f64; 4]]) -> String {
    let rate = |at: usize| median(rounds.iter().map(|rates| rates[at]).collect());
    let ratio = |one: usize, other: usize| {
        median(rounds.iter().map(|rates| rates[one] / rates[other]).collect())
    };
    format!(
        "| {name} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} |",
        rate(0),
        ratio(1, 0),
        ratio(2, 0),
        ratio(3, 0),
        ratio(3, 2)
    )
}

/// Prints the cost of a request for the http plugin, without and with metering, in alternating
/// rounds.
///
/// # Errors
/// The engine failed, or the plugin does not answer.
pub fn parser(component: &Path, rounds: usize) -> Result<()> {
    let input = REQUEST.repeat(PIPELINED);
    let all = [Metering::None, Metering::Fuel, Metering::FuelAndEpochs];
    let mut instances = Vec::new();
    for metering in all {
        let mut instance = Bare::load(component, metering)?.instance()?;
        let answers = instance
            .read(&input)?
            .windows(9)
            .filter(|window| window.starts_with(b"HTTP/1.1 "))
            .count();
        ensure!(answers == PIPELINED, "{answers} answers to {PIPELINED} requests");
        instances.push(instance);
    }
    let mut times: Vec<[f64; 3]> = Vec::new();
    for _ in 0..rounds {
        let mut round = [0.0; 3];
        for (time, instance) in round.iter_mut().zip(&mut instances) {
            *time = one_round(instance, &input)?.as_secs_f64();
        }
        times.push(round);
    }
    println!(
        "\n| a request of {} bytes to the http plugin | ns | of nothing counted |\n|---|---|---|",
        REQUEST.len()
    );
    for (at, metering) in all.into_iter().enumerate() {
        let each = median(times.iter().map(|round| round[at]).collect())
            / f64::from(READS)
            / PIPELINED as f64;
        let ratio = median(times.iter().map(|round| round[at] / round[0]).collect());
        println!("| {metering:?} | {:.0} | {ratio:.2} |", each * 1e9);
    }
    Ok(())
}

fn one_round(instance: &mut BareInstance, input: &[u8]) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..READS {
        instance.read(input)?;
    }
    Ok(start.elapsed())
}
