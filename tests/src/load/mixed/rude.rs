//! Clients that misbehave. Their answers are not checked.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::clients::{Shared, connect, connect_plainly};
use super::place::{Kind, Target};
use crate::load::clients::Stream;
use crate::rng::Rng;

/// Longest time that such a client stays connected.
const STAYS_MAX: Duration = Duration::from_secs(12);
/// Most bytes that a client sends without reading.
const UNREAD_BYTES: usize = 1 << 20;

/// How a client misbehaves.
#[derive(Debug, Clone, Copy)]
enum Rudeness {
    SaysNothing,
    ReadsNothing,
    Resets,
    HalfCloses,
    Drips,
    SaysNonsense,
    LeavesHandshake,
    SendsMuch,
}

const ALL: [Rudeness; 8] = [
    Rudeness::SaysNothing,
    Rudeness::ReadsNothing,
    Rudeness::Resets,
    Rudeness::HalfCloses,
    Rudeness::Drips,
    Rudeness::SaysNonsense,
    Rudeness::LeavesHandshake,
    Rudeness::SendsMuch,
];

/// Runs one client, at one server after the other. Dropping the future ends the client.
pub(super) async fn misbehave(
    shared: Arc<Shared>,
    targets: Vec<Target>,
    number: usize,
    mut rng: Rng,
) {
    while !shared.stop.load(Ordering::Relaxed) {
        let (target, rudeness) = (rng.one_of(&targets).clone(), *rng.one_of(&ALL));
        let once = once(&shared, &target, number, rudeness, &mut rng);
        // Any result is fine; the session only has to be over.
        let _ = timeout(STAYS_MAX, once).await;
        shared.seen.rude.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(shared.pace).await;
    }
}

/// A valid message of this protocol.
fn proper(kind: Kind, number: usize) -> Vec<u8> {
    match kind {
        Kind::Echo | Kind::Lines => format!("a message of client {number}\n").into_bytes(),
        Kind::Http => b"GET / HTTP/1.1\r\nHost: wharf\r\n\r\n".to_vec(),
        // A name, and then a line or a second name. Both begin with a letter that no well-behaved
        // client's name has.
        Kind::Chat => format!("r{number}\nrude\n").into_bytes(),
    }
}

async fn once(
    shared: &Shared,
    target: &Target,
    number: usize,
    rudeness: Rudeness,
    rng: &mut Rng,
) -> io::Result<()> {
    let message = proper(target.kind, number);
    let pause =
        |rng: &mut Rng, most| tokio::time::sleep(Duration::from_millis(rng.between(10, most)));
    match rudeness {
        Rudeness::SaysNothing => {
            let _stream = connect_plainly(target.address, number).await?;
            pause(rng, 6_000).await;
        }
        Rudeness::ReadsNothing => {
            let mut stream = connect(target, &shared.tls, number).await?;
            let sending = async {
                for _ in 0..UNREAD_BYTES / message.len() {
                    stream.write_all(&message).await?;
                }
                io::Result::Ok(())
            };
            let _ = timeout(Duration::from_secs(2), sending).await;
            pause(rng, 6_000).await;
        }
        Rudeness::Resets => {
            let mut stream = connect_plainly(target.address, number).await?;
            stream.write_all(&message).await?;
            pause(rng, 50).await;
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        Rudeness::HalfCloses => {
            let mut stream = connect(target, &shared.tls, number).await?;
            stream.write_all(&message).await?;
            stream.shutdown().await?;
            stream.read_to_end(&mut Vec::new()).await?;
        }
        Rudeness::Drips => {
            let mut stream = connect(target, &shared.tls, number).await?;
            for byte in message.iter().cycle().take(60) {
                stream.write_all(&[*byte]).await?;
                stream.flush().await?;
                pause(rng, 100).await;
            }
        }
        Rudeness::SaysNonsense => {
            // These bytes are neither TLS nor a valid name for a chat.
            let nonsense: Vec<u8> =
                (0..rng.between(1, 5_000)).map(|_| b'\n' + (rng.throw() % 5) as u8).collect();
            let mut stream: Box<dyn Stream> = match rng.percent(50) {
                true => Box::new(connect_plainly(target.address, number).await?),
                false => connect(target, &shared.tls, number).await?,
            };
            stream.write_all(&nonsense).await?;
            pause(rng, 200).await;
        }
        Rudeness::LeavesHandshake => {
            let left = connect(target, &shared.tls, number);
            let _ = timeout(Duration::from_micros(rng.between(100, 5_000)), left).await;
        }
        Rudeness::SendsMuch => {
            let stream = connect(target, &shared.tls, number).await?;
            let (mut reads, mut writes) = tokio::io::split(stream);
            let much = message.repeat((64 << 10) / message.len());
            let mut scratch = vec![0; 64 << 10];
            let sending = async {
                for _ in 0..8 {
                    writes.write_all(&much).await?;
                }
                writes.shutdown().await
            };
            let reading =
                async { while reads.read(&mut scratch).await.is_ok_and(|count| count > 0) {} };
            let _ = tokio::join!(sending, reading);
        }
    }
    Ok(())
}
