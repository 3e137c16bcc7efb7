//! Save and restore in a script, as the host does for a swap or a sleep.

use super::{Script, stage};
use crate::export::Slot;
use crate::{Action, Handoff};

impl<T: Handoff> Script<T> {
    /// Replaces [`connect`](Self::connect): the plugin restores the session from the saved `state`.
    /// `version` is the version that saved, from its manifest.
    #[must_use]
    pub fn restore(self, version: &str, state: &[u8]) -> Self {
        if let Err(why) = stage::quietly(|| self.plugin.restore(version, state)) {
            panic!("expected the plugin to take the session over, it refused: {why}");
        }
        self
    }

    /// Returns the state that the plugin saves. The plugin continues the session.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        stage::quietly(|| self.plugin.save())
    }

    /// Moves the session to another instance of this version: the plugin saves, and a new value
    /// restores. Timers, the name, settings and unchecked writes stay as they are.
    #[must_use]
    pub fn hand_over(self, version: &str) -> Self {
        self.hand_over_to::<T>(version)
    }

    /// As [`hand_over`](Self::hand_over), but to another type, which stands for another version.
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

    /// Expects that a new instance of this version refuses `state`, and returns the reason. This
    /// session continues.
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

    /// A counter of read bytes. It also tries what is forbidden during save and restore.
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
    fn handed_over_session_goes_on() {
        let script = Script::<Counter>::new().connect().read(b"ab").hand_over("1.0.0").read(b"c");
        let script = script.expect_write(&[2, 3]).expect_timer(1, Duration::from_secs(1));
        assert_eq!(script.save(), [3]);
        script.read(b"d").expect_write(&[4]).expect_open().end().expect_closed();
    }

    #[test]
    fn restore_takes_good_state_and_refuses_bad() {
        let script = Script::<Counter>::new().restore("0.9.0", &[7]).read(b"x").expect_write(&[8]);
        assert_eq!(script.expect_refused("0.8.0", b"two"), "0.8.0 saved 3 bytes");
        script.read(b"y").expect_write(&[9]).expect_open().end().expect_closed();
    }

    #[test]
    #[should_panic(expected = "it refused: 0.8.0 saved 0 bytes")]
    fn refused_restore_panics() {
        let _ = Script::<Counter>::new().restore("0.8.0", b"");
    }
}
