//! New clients at a steady pace, which does not depend on the fate of earlier clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::servers::{PATIENCE, eventually};

/// Threads that connect. If all of them wait for an answer, the pace is lost, and caught up later.
const THREADS: u32 = 16;

/// Clients that connect at a steady pace. Each asks once and must be answered.
pub struct NewClients {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    begun: Instant,
    work: Vec<JoinHandle<()>>,
}

impl NewClients {
    /// Starts the clients, `per_second` of them each second. A late client does not delay the next
    /// one: all clients that are due connect at once.
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
                // The threads do not all start in one moment.
                let mut due = step * thread / THREADS;
                while !stop.load(Ordering::Relaxed) {
                    // This sleep keeps the pace; it waits for no event.
                    std::thread::sleep(due.saturating_sub(begun.elapsed()));
                    let mut client = TcpStream::connect(address).expect("no client is refused");
                    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                    client.write_all(question).expect("no client is reset");
                    let mut heard = vec![0; answer.len()];
                    client.read_exact(&mut heard).expect("each client is answered");
                    assert_eq!(heard, answer);
                    served.fetch_add(1, Ordering::Relaxed);
                    due += step;
                }
            })
        });
        let work = work.collect();
        Self { stop, served, begun, work }
    }

    /// How many clients were served so far.
    #[must_use]
    pub fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// The time since the first client.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits until `count` more clients were served.
    pub fn more(&self, count: usize) {
        let before = self.served();
        eventually("new clients are served", || {
            self.served() >= before + count || self.work.iter().any(JoinHandle::is_finished)
        });
    }

    /// Ends the clients. Returns how many were served.
    pub fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for work in self.work {
            work.join().expect("no client was refused, reset or unanswered");
        }
        self.served.load(Ordering::Relaxed)
    }
}
