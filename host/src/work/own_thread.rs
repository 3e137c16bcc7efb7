//! A thread for one step that may hang for ever, such as the look-up of a name.

use std::io;
use std::thread;

use tokio::sync::oneshot;

use super::{WorkError, caught};

/// Runs a step on a thread of its own. Dropping the future does not end the step or its thread.
///
/// # Errors
/// The system refuses the thread.
pub fn on_own_thread<T, S>(
    name: &str,
    step: S,
) -> io::Result<impl Future<Output = Result<T, WorkError>> + Send + use<T, S>>
where
    T: Send + 'static,
    S: FnOnce() -> T + Send + 'static,
{
    let (tell, told) = oneshot::channel();
    // If the caller has gone, the outcome is not needed.
    let work = move || drop(tell.send(caught(step)));
    thread::Builder::new().name(name.to_owned()).spawn(work)?;
    Ok(async { told.await.unwrap_or(Err(WorkError::Ending)) })
}
