//! Sessions that move to the new process. Each stays where it is until the new process can go on with it, and only then is
//! anything of it let go.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::oneshot;

use super::{Answer, Offer, Succeeded, say};
use crate::event::Port;
use crate::net::Passage;
use crate::plugin::EventProcedure;
use crate::server::Fleet;
use crate::server::handle::ServerHandle;
use crate::session::{Line, Successor, Traveller};

/// Sessions that are packed while another is on its way.
const PACKED_MAX: usize = 8;
/// How long a session may be busy before it stays.
const BUSY_MAX: Duration = Duration::from_secs(2);
/// How long it may then take to save its state.
const SAVE_MAX: Duration = Duration::from_secs(10);
/// How long the new process may take for one.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How long all of it may take. Who has not moved by then stays.
const MOVE_MAX: Duration = Duration::from_secs(120);
/// How often it is looked for sessions that began meanwhile.
const LOOKS_MAX: usize = 5;

type Handled = (Arc<Line>, Arc<Successor<EventProcedure>>);

/// Moves every session that can move.
pub(super) async fn move_all(fleet: &Fleet, passage: Passage) -> Succeeded {
    let (mut moved, mut stayed) = (0, BTreeMap::<String, usize>::new());
    let ends = Instant::now() + MOVE_MAX;
    // Without patience for it nothing moves, which the first that is sent finds out.
    let _ = passage.set_patience(ANSWER_MAX);
    let passage = Arc::new(Mutex::new(passage));
    for server in fleet.all() {
        let mut asked = BTreeSet::new();
        for _ in 0..LOOKS_MAX {
            let fresh = server.service.registry.handled();
            let fresh: Vec<_> = fresh.into_iter().filter(|(line, _)| asked.insert(line.info().id)).collect();
            if fresh.is_empty() {
                break;
            }
            let leaving = fresh.into_iter().map(|session| leave(&server, session, &passage, ends));
            let mut leaving = stream::iter(leaving).buffer_unordered(PACKED_MAX);
            while let Some(outcome) = leaving.next().await {
                match outcome {
                    Ok(()) => moved += 1,
                    Err(why) => *stayed.entry(why).or_default() += 1,
                }
            }
        }
    }
    // Where it is gone by now its own log says why.
    let _ = say(&mut passage.lock().unwrap_or_else(PoisonError::into_inner), &Offer::Done);
    Succeeded { moved, stayed }
}

/// Moves one, or says why it stays.
async fn leave(
    server: &ServerHandle,
    (line, successor): Handled,
    passage: &Arc<Mutex<Passage>>,
    ends: Instant,
) -> Result<(), String> {
    if Instant::now() >= ends {
        return Err("no-time".into());
    }
    let mut parting = successor.ask_to_leave();
    line.look_for_successor();
    let parting = match tokio::time::timeout(BUSY_MAX, &mut parting).await {
        Ok(parting) => parting,
        Err(_) if successor.asks_no_more() => return Err("busy".into()),
        Err(_) => tokio::time::timeout(SAVE_MAX, parting).await.map_err(|_| "busy")?,
    };
    let (traveller, verdict) = parting.map_err(|_| "ended")??;
    let (server, name) = (server.name().to_owned(), server.service.registry.name_of(line.info().id));
    let passage = Arc::clone(passage);
    let passing = tokio::task::spawn_blocking(move || {
        let mut passage = passage.lock().unwrap_or_else(PoisonError::into_inner);
        pass(&mut passage, server, name, traveller, verdict)
    });
    passing.await.map_err(|_| "stopping")?
}

/// The verdict that is dropped on the way lets the session go on here.
fn pass(
    passage: &mut Passage,
    server: String,
    name: Option<String>,
    traveller: Traveller,
    verdict: oneshot::Sender<bool>,
) -> Result<(), String> {
    let Traveller { baggage, mut state, queued, socket } = traveller;
    let offer = Offer::Session { server, name, state_bytes: state.len(), baggage: Box::new(baggage) };
    let head = serde_json::to_vec(&offer).map_err(|error| error.to_string())?;
    state.extend_from_slice(&queued);
    // Once a word is missing nobody knows whose turn it is, so nothing more is said.
    let lost = |passage: &Passage| {
        passage.close();
        "new-process-gone".to_owned()
    };
    if let Err(error) = passage.send(&head, &state, Some(socket.as_fd())) {
        return Err(match error.kind() {
            std::io::ErrorKind::InvalidInput => "too-large".to_owned(),
            _ => lost(passage),
        });
    }
    let answer = passage.receive().ok().and_then(|parcel| serde_json::from_slice(&parcel.head).ok());
    match answer {
        Some(Answer::Takes) => {}
        Some(Answer::Refuses { why }) => return Err(why),
        _ => return Err(lost(passage)),
    }
    // From here on the session is not this process's any more, unless it has lost patience.
    let go = verdict.send(true).is_ok();
    say(passage, &Offer::Verdict { go }).map_err(|_| lost(passage))?;
    if go { Ok(()) } else { Err("busy".into()) }
}
