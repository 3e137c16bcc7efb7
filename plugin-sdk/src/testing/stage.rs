//! The imports outside Wasm, which act on the script of this thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use crate::bindings::wasi::config::store::Error as ConfigError;
use crate::{ClientInfo, NameError, Priority, SendError, WriteError};

const CAPACITY_BYTES: u32 = 256 << 10;
const NAME_CHARS_MAX: usize = 127;

pub(crate) struct Stage {
    pub(crate) written: Vec<u8>,
    pub(crate) capacity: u32,
    pub(crate) settings: HashMap<String, String>,
    pub(crate) timers: HashMap<u32, Duration>,
    pub(crate) client: ClientInfo,
    pub(crate) name: Option<String>,
    pub(crate) open: bool,
    /// Whether a save or restore runs. The session can then be read, and not acted on.
    quiet: bool,
}

impl Stage {
    fn new() -> Self {
        Self {
            written: Vec::new(),
            capacity: CAPACITY_BYTES,
            settings: HashMap::new(),
            timers: HashMap::new(),
            client: ClientInfo {
                id: 1,
                server: "script".into(),
                peer_address: "192.0.2.1".into(),
                peer_port: 50_000,
                local_address: "192.0.2.2".into(),
                local_port: 7_000,
                tls: None,
                priority: Priority::Normal,
                parameter: 0,
            },
            name: None,
            open: true,
            quiet: false,
        }
    }
}

thread_local! {
    static STAGE: RefCell<Stage> = RefCell::new(Stage::new());
}

pub(crate) fn reset() {
    STAGE.with(|stage| *stage.borrow_mut() = Stage::new());
}

pub(crate) fn with<R>(act: impl FnOnce(&mut Stage) -> R) -> R {
    STAGE.with(|stage| act(&mut stage.borrow_mut()))
}

/// Runs `act`, during which no import has an effect.
pub(crate) fn quietly<R>(act: impl FnOnce() -> R) -> R {
    with(|stage| stage.quiet = true);
    let outcome = act();
    with(|stage| stage.quiet = false);
    outcome
}

pub(crate) fn info() -> ClientInfo {
    with(|stage| stage.client.clone())
}

pub(crate) fn write(data: &[u8]) -> Result<(), WriteError> {
    with(|stage| {
        if !stage.open || stage.quiet {
            Err(WriteError::Closed)
        } else if data.len() > stage.capacity as usize {
            Err(WriteError::TooLarge)
        } else {
            stage.written.extend_from_slice(data);
            Ok(())
        }
    })
}

pub(crate) fn write_capacity() -> u32 {
    with(|stage| if stage.open && !stage.quiet { stage.capacity } else { 0 })
}

pub(crate) fn set_priority(priority: Priority) -> Priority {
    with(|stage| {
        if !stage.quiet {
            stage.client.priority = priority;
        }
        stage.client.priority
    })
}

pub(crate) fn set_timer(id: u32, after_ms: u64) -> bool {
    with(|stage| {
        match after_ms {
            _ if stage.quiet => return false,
            0 => drop(stage.timers.remove(&id)),
            _ => drop(stage.timers.insert(id, Duration::from_millis(after_ms))),
        }
        true
    })
}

// The script has one session, so there is no other one to count, find or reach.

pub(crate) fn client_count() -> u32 {
    1
}

pub(crate) fn broadcast(_data: &[u8]) -> u32 {
    0
}

pub(crate) fn set_name(name: &str) -> Result<(), NameError> {
    match name.chars().count() {
        0 => Err(NameError::Empty),
        chars if chars > NAME_CHARS_MAX => Err(NameError::TooLong),
        _ if with(|stage| stage.quiet) => Err(NameError::Taken),
        _ => {
            with(|stage| stage.name = Some(name.to_lowercase()));
            Ok(())
        }
    }
}

pub(crate) fn find(name: &str) -> Option<u64> {
    with(|stage| (stage.name == Some(name.to_lowercase())).then_some(stage.client.id))
}

pub(crate) fn send_to(_client: u64, _data: &[u8]) -> Result<(), SendError> {
    Err(SendError::Closed)
}

pub(crate) fn disconnect(_client: u64) -> bool {
    false
}

pub(crate) fn get(key: &str) -> Result<Option<String>, ConfigError> {
    Ok(with(|stage| stage.settings.get(key).cloned()))
}

pub(crate) fn get_all() -> Result<Vec<(String, String)>, ConfigError> {
    Ok(with(|stage| stage.settings.clone().into_iter().collect()))
}
