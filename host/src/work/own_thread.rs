//! A thread for one step that may hang for ever, as a look-up of a name does.

use std::io;
use std::thread;

use tokio::sync::oneshot;

use super::{WorkError, caught};

/// Does a step on a thread of its own. Dropping the future leaves the thread to itself.
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
    // Where the caller has gone, the outcome is of no use to anybody.
    let work = move || drop(tell.send(caught(step)));
    thread::Builder::new().name(name.to_owned()).spawn(work)?;
    Ok(async { told.await.unwrap_or(Err(WorkError::Ending)) })
}
