//! Clients that come all the time, at a pace that is kept whatever happens to those before them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::servers::{PATIENCE, eventually};

/// Threads that connect. So many may wait for an answer before the pace is lost, and it is caught
/// up with then.
const THREADS: u32 = 16;

/// NewClients, so many a second, each of which asks once and has to be answered.
pub struct NewClients {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    begun: Instant,
    work: Vec<JoinHandle<()>>,
}

impl NewClients {
    /// They come from now on. Who comes late because the ones before took long does not make the
    /// next one late: those that are due come at once.
    #[must_use]
    pub fn at(
        address: SocketAddr,
        per_second: u32,
        question: &'static [u8],
        answer: &'static [u8],
    ) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let begun = Instant::now();
        let work = (0..THREADS).map(|thread| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            std::thread::spawn(move || {
                let step = Duration::from_secs(1) * THREADS / per_second;
                // Not all in one moment.
                let mut due = step * thread / THREADS;
                while !stop.load(Ordering::Relaxed) {
                    // The pace, and no wait for anything.
                    std::thread::sleep(due.saturating_sub(begun.elapsed()));
                    let mut client = TcpStream::connect(address).expect("nobody is refused");
                    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                    client.write_all(question).expect("nobody is reset");
                    let mut heard = vec![0; answer.len()];
                    client.read_exact(&mut heard).expect("everybody is answered");
                    assert_eq!(heard, answer);
                    served.fetch_add(1, Ordering::Relaxed);
                    due += step;
                }
            })
        });
        let work = work.collect();
        Self { stop, served, begun, work }
    }

    /// How many were served by now.
    #[must_use]
    pub fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// Since when they come.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits until so many more were served.
    pub fn more(&self, count: usize) {
        let before = self.served();
        eventually("newcomers are served", || {
            self.served() >= before + count || self.work.iter().any(JoinHandle::is_finished)
        });
    }

    /// Ends them; how many were served.
    pub fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for work in self.work {
            work.join().expect("nobody was refused, reset or unanswered");
        }
        self.served.load(Ordering::Relaxed)
    }
}
