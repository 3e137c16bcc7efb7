//! Sends back all bytes that arrive.

use wharf_plugin::{Action, EventProc, Handoff, Session};

#[derive(Default)]
struct Echo;

impl EventProc for Echo {
    fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {
        session.write_or_close(&data)
    }
}

/// A session has no state but its connection.
impl Handoff for Echo {
    fn save(&self, _session: &Session) -> Vec<u8> {
        Vec::new()
    }

    fn restore(_session: &Session, _version: &str, _state: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }
}

wharf_plugin::export!(Echo, handoff);

#[cfg(test)]
mod tests {
    use super::Echo;
    use wharf_plugin::testing::Script;

    #[test]
    fn bytes_go_back_unchanged() {
        Script::<Echo>::new()
            .connect()
            .expect_silence()
            .read(b"\x00any bytes\xff")
            .expect_write(b"\x00any bytes\xff")
            .expect_open()
            .end()
            .expect_closed();
    }

    #[test]
    fn refused_write_closes_the_session() {
        Script::<Echo>::new().capacity(4).connect().read(b"too much").expect_closed();
    }
}
