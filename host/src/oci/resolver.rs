//! Address look-ups of registries. Each runs on its own thread, because a look-up may hang for
//! ever. A thread that the system refuses is an error and no panic.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::work::on_own_thread;

/// Number of look-ups at once in a process. A look-up that hangs is left behind and still counts.
const LOOK_UPS_MAX: usize = 16;

static LOOK_UPS: AtomicUsize = AtomicUsize::new(0);

/// The look-up of the system.
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let count = Counted::new()?;
            let host = name.as_str().to_owned();
            let look_up = move || {
                let _counted = count;
                // The client fills in the port itself.
                (host.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>)
            };
            let found = on_own_thread("wharf-resolve", look_up)?.await??;
            Ok::<Addrs, Box<dyn Error + Send + Sync>>(Box::new(found.into_iter()))
        })
    }
}

/// Count of one look-up.
struct Counted;

impl Counted {
    fn new() -> io::Result<Self> {
        let counted = Self;
        if LOOK_UPS.fetch_add(1, Ordering::Relaxed) >= LOOK_UPS_MAX {
            let problem = format!("{LOOK_UPS_MAX} look-ups of names have not come to an end");
            return Err(io::Error::other(problem));
        }
        Ok(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LOOK_UPS.fetch_sub(1, Ordering::Relaxed);
    }
}
