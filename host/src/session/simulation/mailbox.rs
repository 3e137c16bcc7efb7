//! Random operations on the mailboxes of one tenant: its quota always equals what they hold.

use std::sync::Arc;

use crate::event::SendError;
use crate::rng::{Rng, for_each_seed};
use crate::sched::{Quota, QuotaLimits};
use crate::session::mailbox::{Mailbox, PIECE_BYTES, Sealed};

const SEEDS: u64 = 200;
const SHARE: usize = 8 << 10;
const MAX: usize = 4 << 10;

/// Checks after each step that the quota says what the mailboxes hold, and never more than the
/// share.
fn play(seed: u64) {
    let mut rng = Rng(seed);
    let quota = Arc::<Quota>::default();
    quota.set(QuotaLimits { mail_max_bytes: SHARE, ..QuotaLimits::default() });
    let mut boxes: Vec<_> =
        (0..5).map(|_| (Mailbox::new(Arc::clone(&quota)), None::<Sealed>)).collect();
    let (mut held, mut moved, mut refused) = (vec![Vec::new(); boxes.len()], 0, 0);
    for _ in 0..400 {
        let at = rng.throw(boxes.len() as u64) as usize;
        let (mailbox, sealed) = &mut boxes[at];
        match rng.throw(10) {
            0..=5 => {
                let data: Arc<[u8]> = vec![7; 1 + rng.throw(600) as usize].into();
                let all: usize =
                    moved + held.iter().flatten().map(|bytes| bytes + PIECE_BYTES).sum::<usize>();
                match mailbox.deliver(&data, MAX) {
                    Ok(()) => held[at].push(data.len()),
                    Err(SendError::Full) => {
                        let here = held[at].iter().sum::<usize>() + held[at].len() * PIECE_BYTES;
                        let of_tenant = all + data.len() + PIECE_BYTES > SHARE;
                        assert!(
                            here + data.len() > MAX || of_tenant,
                            "{here} and {all}: there is room"
                        );
                        refused += u64::from(here + data.len() <= MAX);
                    }
                    Err(error) => assert!(sealed.is_some(), "{error:?}"),
                }
            }
            6 => {
                if let Some(piece) = mailbox.next() {
                    assert_eq!(piece.len(), held[at].remove(0));
                    moved += piece.len();
                }
            }
            7 => {
                quota.give_mail(moved);
                moved = 0;
            }
            8 if sealed.is_none() => *sealed = Some(mailbox.seal()),
            8 => mailbox.unseal(sealed.take().expect("it was sealed")),
            _ => {
                mailbox.shut();
                *sealed = None;
                held[at].clear();
                *mailbox = Mailbox::new(Arc::clone(&quota));
            }
        }
        let all = moved + held.iter().flatten().map(|bytes| bytes + PIECE_BYTES).sum::<usize>();
        assert_eq!(quota.seen().mail_bytes, all);
        assert!(all <= SHARE);
    }
    assert_eq!(quota.seen().mail_refused, refused);
    quota.give_mail(moved);
    drop(boxes);
    assert_eq!((quota.seen().mail_bytes, quota.seen().memory_bytes), (0, 0));
}

#[test]
fn mail_is_counted_while_it_waits() {
    for_each_seed(SEEDS, play);
}
