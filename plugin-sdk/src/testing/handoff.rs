//! Handing a session over in a script, as the host does when its plugin is swapped or it is put to
//! sleep.

use super::{Script, stage};
use crate::export::Slot;
use crate::{Action, Handoff};

impl<T: Handoff> Script<T> {
    /// Instead of [`connect`](Self::connect): this version takes the session over from what another
    /// one saved. `version` is that of the one that saved, from its manifest.
    #[must_use]
    pub fn restore(self, version: &str, state: &[u8]) -> Self {
        if let Err(why) = stage::quietly(|| self.plugin.restore(version, state)) {
            panic!("expected the plugin to take the session over, it refused: {why}");
        }
        self
    }

    /// What the session would take along. The plugin carries on.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        stage::quietly(|| self.plugin.save())
    }

    /// The session moves to another instance of this version: it saves, and a new value takes over
    /// from that. Timers, the name, settings, and what was written and not looked at, are as they
    /// were.
    #[must_use]
    pub fn hand_over(self, version: &str) -> Self {
        self.hand_over_to::<T>(version)
    }

    /// The same to another type, which stands for another version.
    #[must_use]
    pub fn hand_over_to<N: Handoff>(self, version: &str) -> Script<N> {
        assert_eq!(
            self.last,
            Action::Proceed,
            "the plugin has ended the session: it is not handed over"
        );
        let state = self.save();
        Script::<N> { plugin: Slot::default(), last: Action::Proceed }.restore(version, &state)
    }

    /// A new instance of this version refuses to take over from that state. Its words; this session
    /// carries on.
    #[must_use]
    pub fn expect_refused(&self, version: &str, state: &[u8]) -> String {
        let taker = Slot::<T>::default();
        match stage::quietly(|| taker.restore(version, state)) {
            Ok(()) => panic!("expected the plugin to refuse the state, it took the session over"),
            Err(why) => why,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{EventProc, Session, WriteError};

    /// Counts what it reads, and does to its session what it may not while it is handed over.
    #[derive(Default)]
    struct Counter(u8);

    impl EventProc for Counter {
        fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {
            self.0 += data.len() as u8;
            assert!(session.set_timer(1, Duration::from_secs(1)));
            session.write_or_close(&[self.0])
        }
    }

    impl Handoff for Counter {
        fn save(&self, session: &Session) -> Vec<u8> {
            assert_eq!(session.write(b"saved"), Err(WriteError::Closed));
            vec![self.0]
        }

        fn restore(session: &Session, version: &str, state: &[u8]) -> Result<Self, String> {
            assert_eq!(session.write(b"restored"), Err(WriteError::Closed));
            assert!(!session.set_timer(2, Duration::from_secs(1)) && session.write_capacity() == 0);
            let [count] = state else {
                return Err(format!("{version} saved {} bytes", state.len()));
            };
            Ok(Self(*count))
        }
    }

    #[test]
    fn a_script_hands_its_session_over_and_goes_on() {
        let script = Script::<Counter>::new().connect().read(b"ab").hand_over("1.0.0").read(b"c");
        let script = script.expect_write(&[2, 3]).expect_timer(1, Duration::from_secs(1));
        assert_eq!(script.save(), [3]);
        script.read(b"d").expect_write(&[4]).expect_open().end().expect_closed();
    }

    #[test]
    fn a_script_says_what_a_version_takes_over_and_what_it_refuses() {
        let script = Script::<Counter>::new().restore("0.9.0", &[7]).read(b"x").expect_write(&[8]);
        assert_eq!(script.expect_refused("0.8.0", b"two"), "0.8.0 saved 3 bytes");
        script.read(b"y").expect_write(&[9]).expect_open().end().expect_closed();
    }

    #[test]
    #[should_panic(expected = "it refused: 0.8.0 saved 0 bytes")]
    fn a_script_ends_where_a_version_refuses_what_it_should_take_over() {
        let _ = Script::<Counter>::new().restore("0.8.0", b"");
    }
}
