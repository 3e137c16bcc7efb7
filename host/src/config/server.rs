//! From one `[[server]]` table to a server specification.

use std::fmt::Display;
use std::num::NonZeroU16;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::file::{
    BreakerTable, BudgetTable, CredentialsTable, LimitsTable, ServerTable, TimeoutsTable,
};
use super::swap;
use crate::admission::{Network, Networks, Throttle};
use crate::event::Priority;
use crate::net::{ClientCertificate, Credentials, ListenPort, ProtocolMin, SocketOptions};
use crate::oci::Reference;
use crate::plugin::{Grant, InstanceLimits};
use crate::sched::BudgetChange;
use crate::server::{
    BreakerLimits, HeldUp, Server, ServerBuilder, SwapPolicy, TENANT_MAX_BYTES, TIMERS_DEFAULT,
    Timeouts, WATERMARKS_DEFAULT,
};
use crate::session::Watermarks;
use crate::span::Span;

/// Makes a server specification, or returns every mistake in its table.
pub(super) fn describe(table: &ServerTable, folder: &Path) -> Result<ServerBuilder, Vec<String>> {
    let mut wrong = Vec::new();
    let mut server = Server::builder()
        .name(&table.name)
        .local_host(&table.host)
        .backlog(table.backlog)
        .throttle(Throttle {
            max_clients: table.max_clients,
            max_per_address: table.max_per_address,
            accept_interval: span(table.accept_interval.as_ref()),
            rate_per_address: table.rate_per_address,
            burst_per_address: table.burst_per_address,
        })
        .timeouts(timeouts(&table.timeouts))
        .parameter(table.parameter)
        .limits(limits(&table.limits))
        .watermarks(Watermarks {
            high_bytes: table
                .limits
                .send_buffer_high_bytes
                .unwrap_or(WATERMARKS_DEFAULT.high_bytes),
            low_bytes: table.limits.send_buffer_low_bytes.unwrap_or(WATERMARKS_DEFAULT.low_bytes),
        });
    match port(table.port) {
        Ok(port) => server = server.local_port(port),
        Err(mistake) => wrong.push(mistake),
    }
    server = server.sleep_after(span(table.sleep_after.as_ref()));
    if let Some(timeout) = &table.timeout {
        server = server.timeout(timeout.0);
    }
    if let Some(priority) = parse::<Priority>("priority", table.priority.as_deref(), &mut wrong) {
        server = server.priority(priority);
    }
    if let Some(priority) =
        parse::<Priority>("priority_max", table.priority_max.as_deref(), &mut wrong)
    {
        server = server.priority_max(priority);
    }
    match table.tenant.as_deref() {
        Some(tenant) if !(1..=TENANT_MAX_BYTES).contains(&tenant.len()) => {
            wrong.push(format!(
                "`tenant`: {} bytes; expected 1 to {TENANT_MAX_BYTES}",
                tenant.len()
            ));
        }
        Some(tenant) => server = server.tenant(tenant),
        None => {}
    }
    for (class, table) in &table.budgets {
        if let Some(class) = parse::<Priority>("budgets", Some(class), &mut wrong) {
            server = server.budget(class, budget(table));
        }
    }
    let policy = parse::<SwapPolicy>("swap.policy", table.swap.policy.as_deref(), &mut wrong);
    let held_up = parse::<HeldUp>("swap.held_up", table.swap.held_up.as_deref(), &mut wrong);
    server = server.breaker(breaker(&table.breaker)).swap_rules(swap::rules(
        &table.swap,
        policy,
        held_up,
    ));
    let networks = Networks {
        allow: list("allow", &table.allow, &mut wrong),
        deny: list("deny", &table.deny, &mut wrong),
    };
    server = server.networks(networks).proxies(list("proxies", &table.proxies, &mut wrong));
    let (options, secure) = options(&table.options, &mut wrong);
    server = server.options(options).secure(secure);
    match &table.plugin {
        Some(place) => match Reference::in_place_of(place) {
            None => server = server.plugin(folder.join(place)),
            Some(Ok(_)) => server = server.plugin(place),
            Some(Err(error)) => wrong.push(format!("`plugin`: {error}")),
        },
        None => wrong.push(
            "`plugin`: missing; expected a folder with plugin.toml, a .wasm file or oci://..."
                .into(),
        ),
    }
    server = server.timers_max(table.limits.timers_max.unwrap_or(TIMERS_DEFAULT));
    if let Some(characters) = table.limits.name_chars_max {
        server = server.name_chars_max(characters);
    }
    server = server.shared_instances(shards(table, &mut wrong)).instances_min(table.instances_min);
    let grants =
        table.grants.iter().filter_map(|name| parse::<Grant>("grants", Some(name), &mut wrong));
    server = server.grants(grants.collect());
    for (key, value) in &table.settings {
        match setting(value) {
            Some(text) => server = server.setting(key, text),
            None => {
                wrong.push(format!("`settings.{key}`: expected a string, a number or a boolean"));
            }
        }
    }
    match (&table.credentials, secure) {
        (Some(credentials), true) => {
            server = server.credentials(read_credentials(credentials, folder, &mut wrong));
        }
        (Some(_), false) => {
            wrong.push("`credentials`: without effect; add \"secure\" to `options`".into());
        }
        (None, _) => {}
    }
    wrong.extend(server.problems().iter().map(ToString::to_string));
    if wrong.is_empty() { Ok(server) } else { Err(wrong) }
}

fn port(port: Option<i64>) -> Result<ListenPort, String> {
    let port = port.ok_or("`port`: missing; expected 1 to 65535")?;
    let fixed = u16::try_from(port).ok().and_then(NonZeroU16::new);
    fixed.map(ListenPort::Fixed).ok_or_else(|| {
        let why = if port == 0 {
            " (a port that the system chooses could not be found by clients)"
        } else {
            ""
        };
        format!("`port`: expected 1 to 65535, found {port}{why}")
    })
}

fn parse<T: FromStr<Err: Display>>(
    key: &str,
    text: Option<&str>,
    wrong: &mut Vec<String>,
) -> Option<T> {
    match text?.parse() {
        Ok(value) => Some(value),
        Err(mistake) => {
            wrong.push(format!("`{key}`: {mistake}"));
            None
        }
    }
}

/// The number of shared instances, or 0 if each session has an instance of its own.
fn shards(table: &ServerTable, wrong: &mut Vec<String>) -> usize {
    match (table.instance.as_deref(), table.shards) {
        (Some("server"), None) => 1,
        (Some("server"), Some(0)) => {
            wrong.push("`shards`: expected at least 1, found 0".into());
            0
        }
        (Some("server"), Some(shards)) => shards,
        (None | Some("session"), None) => 0,
        (None | Some("session"), Some(_)) => {
            wrong.push("`shards`: without effect; add `instance = \"server\"`".into());
            0
        }
        (Some(other), _) => {
            let other = other.escape_debug();
            wrong.push(format!("`instance`: expected \"session\" or \"server\", found `{other}`"));
            0
        }
    }
}

fn list(key: &str, texts: &[String], wrong: &mut Vec<String>) -> Vec<Network> {
    texts.iter().filter_map(|text| parse(key, Some(text), wrong)).collect()
}

fn span(span: Option<&Span>) -> Duration {
    span.map_or(Duration::ZERO, |span| span.0)
}

fn timeouts(table: &TimeoutsTable) -> Timeouts {
    Timeouts {
        handshake: table.handshake.as_ref().map(|span| span.0),
        write: table.write.as_ref().map(|span| span.0),
        first_byte: span(table.first_byte.as_ref()),
        idle: span(table.idle.as_ref()),
        lifetime: span(table.lifetime.as_ref()),
        min_rate: table.min_rate_bytes_per_second,
        min_read_rate: table.min_read_rate_bytes_per_second,
    }
}

fn options(names: &[String], wrong: &mut Vec<String>) -> (SocketOptions, bool) {
    let (mut options, mut secure) = (SocketOptions::default(), false);
    for name in names {
        match name.as_str() {
            "reuse-address" => options.reuse_address = true,
            "dont-route" => options.dont_route = true,
            "keep-alive" => options.keep_alive = true,
            "no-delay" => options.no_delay = true,
            "secure" => secure = true,
            other => wrong.push(format!(
                "`options`: `{}` is none: expected reuse-address, dont-route, keep-alive, no-delay \
                 or secure",
                other.escape_debug()
            )),
        }
    }
    (options, secure)
}

fn setting(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn limits(table: &LimitsTable) -> InstanceLimits {
    let default = InstanceLimits::default();
    InstanceLimits {
        memory_max_bytes: table.memory_max_bytes.unwrap_or(default.memory_max_bytes),
        table_elements_max: table.table_elements_max.unwrap_or(default.table_elements_max),
        core_instances_max: table.core_instances_max.unwrap_or(default.core_instances_max),
        copy_max_bytes: table.copy_max_bytes.unwrap_or(default.copy_max_bytes),
        handles_max: table.handles_max.unwrap_or(default.handles_max),
        state_max_bytes: table.state_max_bytes.unwrap_or(default.state_max_bytes),
        log_lines_per_second: table.log_lines_per_second.unwrap_or(default.log_lines_per_second),
    }
}

fn budget(table: &BudgetTable) -> BudgetChange {
    let time = |span: &Option<Span>| span.as_ref().map(|span| span.0);
    BudgetChange {
        fuel: table.fuel,
        cpu: time(&table.cpu),
        wall: time(&table.wall),
        start_fuel: table.start_fuel,
        start_cpu: time(&table.start_cpu),
    }
}

fn breaker(table: &BreakerTable) -> BreakerLimits {
    let default = BreakerLimits::default();
    let time =
        |span: &Option<Span>, default: Duration| span.as_ref().map_or(default, |span| span.0);
    BreakerLimits {
        faults: table.faults.unwrap_or(default.faults),
        window: time(&table.window, default.window),
        pause: time(&table.pause, default.pause),
        pause_max: time(&table.pause_max, default.pause_max),
    }
}

fn read_credentials(
    table: &CredentialsTable,
    folder: &Path,
    wrong: &mut Vec<String>,
) -> Credentials {
    let protocol_min = match table.protocol_min.as_deref() {
        None | Some("1.2") => ProtocolMin::Tls12,
        Some("1.3") => ProtocolMin::Tls13,
        Some(other) => {
            wrong.push(format!(
                "`credentials.protocol_min`: expected \"1.2\" or \"1.3\", found `{other}`"
            ));
            ProtocolMin::Tls13
        }
    };
    let client_certificate = match table.client_certificate.as_deref() {
        None | Some("required") => ClientCertificate::Required,
        Some("optional") => ClientCertificate::Optional,
        Some(other) => {
            wrong.push(format!(
                "`credentials.client_certificate`: expected required or optional, found `{other}`"
            ));
            ClientCertificate::Required
        }
    };
    if table.client_certificate.is_some() && table.client_authority.is_none() {
        wrong.push(
            "`credentials.client_certificate`: without effect; `client_authority` is missing"
                .into(),
        );
    }
    Credentials {
        certificate_chain: folder.join(&table.certificate_chain),
        private_key: folder.join(&table.private_key),
        protocol_min,
        alpn: table.alpn.clone(),
        client_authority: table.client_authority.as_ref().map(|file| folder.join(file)),
        client_certificate,
    }
}
