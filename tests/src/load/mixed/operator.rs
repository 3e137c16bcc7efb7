//! Operators that call every operation of the control API, in an order that follows from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};

use super::audit::unbalanced;
use super::clients::OPERATORS;
use super::place::{Place, Quality, SPARE, Target};
use crate::load::api::{Answer, Api};
use crate::rng::Rng;

/// Operations of the API that are not called, because a new process would take over.
const NOT_CALLED: [&str; 1] = ["POST /v1/upgrade"];
/// How long operators suspend or lock a server, in milliseconds, from and to.
const HOLDS_MS: (u64, u64) = (20, 800);
/// Classes of sessions.
const CLASSES: [&str; 5] = ["background", "low", "normal", "high", "critical"];

/// The state that all operators share.
pub(super) struct Desk {
    pub(super) api: Api,
    pub(super) folder: PathBuf,
    pub(super) targets: Vec<Target>,
    pub(super) stop: AtomicBool,
    /// Counts of answers by operation and status.
    answers: Mutex<BTreeMap<(String, u16), u64>>,
    wrong: Mutex<Vec<String>>,
}

impl Desk {
    pub(super) fn of(place: &Place) -> Self {
        Self {
            api: place.api.clone(),
            folder: place.folder().to_owned(),
            targets: place.servers.clone(),
            stop: AtomicBool::new(false),
            answers: Mutex::default(),
            wrong: Mutex::default(),
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Calls an operation of the API, as the document names it, and counts the answer.
    async fn call(
        &self,
        operation: &str,
        of: (&str, u64),
        query: &str,
        body: &Value,
    ) -> Option<Answer> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.call_with(operation, of, query, &body).await
    }

    async fn call_with(
        &self,
        operation: &str,
        of: (&str, u64),
        query: &str,
        body: &[u8],
    ) -> Option<Answer> {
        let (method, path) = operation.split_once(' ')?;
        let path = path.replace("{server}", of.0).replace("{id}", &of.1.to_string()) + query;
        let answered = self.api.ask(method, &path, body).await;
        let status = answered.as_ref().map_or(0, |answer| answer.status);
        *lock(&self.answers).entry((operation.to_owned(), status)).or_default() += 1;
        match answered {
            // The status 503 is expected when too many calls wait.
            Ok(answer) if answer.status < 500 || answer.status == 503 => Some(answer),
            Ok(answer) => {
                self.found(format!(
                    "{method} {path}: {}: {}",
                    answer.status,
                    answer.body.escape_ascii()
                ));
                None
            }
            Err(error) => {
                self.found(format!("{method} {path}: {error:#}"));
                None
            }
        }
    }

    fn found(&self, wrong: String) {
        lock(&self.wrong).push(wrong);
    }

    /// Messages of everything that must not happen.
    pub(super) fn wrong(&self) -> Vec<String> {
        lock(&self.wrong).clone()
    }

    /// Counts of answers by operation and status.
    pub(super) fn answers(&self) -> BTreeMap<(String, u16), u64> {
        lock(&self.answers).clone()
    }

    /// Any session of the server, if there is one.
    async fn session(&self, server: &str, rng: &mut Rng) -> Option<u64> {
        let list = "GET /v1/servers/{server}/sessions";
        let answer = self.call(list, (server, 0), "?limit=200", &Value::Null).await?.json();
        let sessions = answer["sessions"].as_array()?;
        if sessions.is_empty() { None } else { rng.one_of(sessions)["id"].as_u64() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every operation that the API's document of the running process lists.
///
/// # Errors
/// The process does not answer.
pub(super) async fn operations(api: &Api) -> Result<BTreeSet<String>> {
    let document = api.ask("GET", "/v1/openapi.json", &[]).await?.json();
    let paths = document["paths"].as_object().context("paths")?;
    let operations = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().into_iter().flat_map(|methods| methods.keys());
        let methods = methods
            .filter(|method| ["get", "put", "post", "patch", "delete"].contains(&method.as_str()));
        methods.map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    Ok(operations.filter(|operation| !NOT_CALLED.contains(&operation.as_str())).collect())
}

/// Whether an operation changes versions. Those have their own pace.
fn is_of_swaps(operation: &str) -> bool {
    operation.starts_with("POST") && operation.contains("/plugin/")
}

/// Calls all operations except changes of versions, from one shuffled list after the other.
pub(super) async fn operate(desk: Arc<Desk>, all: BTreeSet<String>, pace: Duration, mut rng: Rng) {
    let mut list: Vec<_> = all.into_iter().filter(|operation| !is_of_swaps(operation)).collect();
    while !desk.stopped() {
        rng.shuffle(&mut list);
        for operation in &list {
            if desk.stopped() {
                return;
            }
            one(&desk, operation, &mut rng).await;
            sleep(pace).await;
        }
    }
}

async fn one(desk: &Desk, operation: &str, rng: &mut Rng) {
    let server = rng.one_of(&desk.targets).name;
    let whole = (server, 0);
    let held = Duration::from_millis(rng.between(HOLDS_MS.0, HOLDS_MS.1));
    let deadline = format!("{}ms", rng.between(1, 800));
    let what = operation.rsplit_once("{server}").map_or("", |(_, what)| what);
    let nothing = &Value::Null;
    match (operation, what) {
        ("GET /v1/events", _) => events(desk, operation, held).await,
        ("POST /v1/reload", _) => {
            let variant = *rng.one_of(&["0", "1", "bad"]);
            if let Err(error) = Place::configure(&desk.folder, variant) {
                desk.found(format!("{error:#}"));
            }
            desk.call(operation, whole, "", nothing).await;
            let _ = Place::configure(&desk.folder, "0");
        }
        (_, "/suspend") => {
            let mut body = json!({ "newcomers": rng.one_of(&["queue", "reject"]),
                                   "sessions": rng.one_of(&["keep", "keep", "drain",
                                   "disconnect"]) });
            if body["sessions"] == "drain" {
                body["deadline"] = deadline.into();
            }
            desk.call(operation, whole, "", &body).await;
            sleep(held).await;
            desk.call("POST /v1/servers/{server}/resume", whole, "", nothing).await;
        }
        (_, "/restart") => {
            let mut body = json!({ "sessions": "disconnect", "reload": rng.percent(20) });
            if rng.percent(50) {
                body["sessions"] = "drain".into();
                body["deadline"] = deadline.into();
            }
            desk.call(operation, whole, "", &body).await;
        }
        (_, "/stop") => stop(desk, operation, &deadline, held).await,
        (_, "/lock") => {
            let body = json!({ "wait": "500ms", "hold": "1s" });
            let locked = desk.call(operation, whole, "", &body).await;
            sleep(held).await;
            // One lock in ten is left until its time is over.
            let token = locked.filter(|answer| answer.status == 200 && !rng.percent(10));
            if let Some(token) = token.map(|answer| answer.json()["token"].clone()) {
                let body = json!({ "token": token });
                desk.call("POST /v1/servers/{server}/unlock", whole, "", &body).await;
            }
        }
        (_, "/unlock") => {
            drop(desk.call(operation, whole, "", &json!({ "token": rng.throw() >> 12 })).await);
        }
        ("PATCH /v1/servers/{server}/throttle", _) => {
            let interval = *rng.one_of(&["0s", "1ms", "5ms"]);
            let rate = *rng.one_of(&[0, 50, 500]);
            let body = json!({ "max_clients": rng.one_of(&[0, 30, 100, 1_000]),
                "accept_interval": interval,
                               "rate_per_address": rate, "max_per_address": rng.one_of(&[0, 20,
                               1_000]) });
            desk.call(operation, whole, "", &body).await;
            sleep(held).await;
            let none = json!({ "max_clients": 0, "max_per_address": 0, "accept_interval": "0s",
                "rate_per_address": 0 });
            desk.call(operation, whole, "", &none).await;
        }
        (_, "/data") => {
            let body = json!({ "data": "d".repeat(rng.between(0, 70_000) as usize) });
            desk.call(operation, whole, "", &body).await;
        }
        (_, "/priority" | "/sessions/{id}/priority") => {
            let of = (server, desk.session(server, rng).await.unwrap_or(1));
            desk.call(operation, of, "", &json!({ "priority": rng.one_of(&CLASSES) })).await;
        }
        (_, "/broadcast") => {
            let bytes = vec![OPERATORS; rng.between(0, 2_000) as usize];
            desk.call_with(operation, whole, "", &bytes).await;
        }
        (_, "/sessions/{id}/send") => {
            let of = (server, desk.session(server, rng).await.unwrap_or(1));
            let bytes = vec![OPERATORS; rng.between(1, 20_000) as usize];
            desk.call_with(operation, of, "", &bytes).await;
        }
        (_, "/sessions/{id}/name") => {
            let of = (server, desk.session(server, rng).await.unwrap_or(1));
            let body = json!({ "name": format!("named-{}", rng.between(0, 30)) });
            desk.call(operation, of, "", &body).await;
        }
        (_, "/sessions") => {
            let queries = ["?limit=1000", "?after=10&limit=3", "?name=named-1", "?nonsense=1", ""];
            let query = *rng.one_of(&queries);
            desk.call(operation, whole, query, nothing).await;
        }
        (_, more) if more.contains("{id}") => {
            let of = (server, desk.session(server, rng).await.unwrap_or(1));
            desk.call(operation, of, "", nothing).await;
        }
        _ => drop(desk.call(operation, whole, "", nothing).await),
    }
}

/// Listens to events for a while.
async fn events(desk: &Desk, operation: &str, time: Duration) {
    let heard = async {
        let mut stream = desk.api.send("GET", "/v1/events", &[]).await?;
        let mut all = Vec::new();
        let _ = timeout(time, stream.read_to_end(&mut all)).await;
        let head = String::from_utf8_lossy(&all[..all.len().min(40)]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
        anyhow::Ok(status.unwrap_or(0))
    };
    let status = heard.await.unwrap_or(0);
    *lock(&desk.answers).entry((operation.to_owned(), status)).or_default() += 1;
}

/// Stops the spare server, checks its sums, and starts it again by a reload.
async fn stop(desk: &Desk, operation: &str, drain: &str, held: Duration) {
    let body = json!({ "drain": drain, "grace": "300ms" });
    if let Some(answer) = desk.call(operation, (SPARE, 0), "", &body).await {
        desk.wrong_sums(&answer.json());
    }
    sleep(held).await;
    let _ = Place::configure(&desk.folder, "0");
    desk.call("POST /v1/reload", (SPARE, 0), "", &Value::Null).await;
}

impl Desk {
    fn wrong_sums(&self, server: &Value) {
        if let Some(wrong) = unbalanced(server) {
            self.found(format!("once it had stopped: {wrong}"));
        }
    }
}

/// Calls one swap, canary, promotion or roll-back.
pub(super) async fn change(desk: Arc<Desk>, mut rng: Rng) {
    let target = rng.one_of(&desk.targets).clone();
    let quality = if rng.percent(15) { Quality::Bad } else { Quality::Good };
    let file = match Place::version(&desk.folder, target.kind, quality, &mut rng) {
        Ok(file) => file,
        Err(error) => return desk.found(format!("no version of {}: {error:#}", target.name)),
    };
    let of = (target.name, 0);
    let base = "POST /v1/servers/{server}/plugin";
    match rng.between(0, 99) {
        0..70 => {
            let mut body = json!({ "file": file });
            let policies = ["hand-off", "hand-off", "all-or-nothing", "pin", "disconnect"];
            if rng.percent(60) {
                body["policy"] = (*rng.one_of(&policies)).into();
            }
            desk.call(&format!("{base}/swap"), of, "", &body).await;
        }
        70..80 => {
            let duration = format!("{}s", rng.between(1, 6));
            let body = json!({ "file": file, "share": 0.3, "live": rng.percent(50),
                "duration": duration });
            desk.call(&format!("{base}/canary"), of, "", &body).await;
        }
        80..90 => drop(desk.call(&format!("{base}/promote"), of, "", &Value::Null).await),
        _ => drop(desk.call(&format!("{base}/rollback"), of, "", &Value::Null).await),
    }
}

/// Undoes the operators' changes: afterwards no server is suspended, throttled or has a canary.
pub(super) async fn restore(desk: &Desk) {
    let _ = Place::configure(&desk.folder, "0");
    desk.call("POST /v1/reload", (SPARE, 0), "", &Value::Null).await;
    for target in &desk.targets {
        desk.call("POST /v1/servers/{server}/resume", (target.name, 0), "", &Value::Null).await;
    }
}

/// A table of the answers by status, with one line for each operation.
pub(super) fn table(answers: &BTreeMap<(String, u16), u64>) -> String {
    let mut rows: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((operation, status), count) in answers {
        let status = if *status == 0 { "none".to_owned() } else { status.to_string() };
        rows.entry(operation).or_default().push(format!("{count} x {status}"));
    }
    let rows = rows
        .into_iter()
        .map(|(operation, counts)| format!("| {operation} | {} |", counts.join(", ")));
    rows.collect::<Vec<_>>().join("\n")
}
