//! The check of `wharf.toml`: see `crate::fuzzing`.

use std::time::Instant;

use super::{Config, registries};
use crate::files::scratch;

/// Every mistake names the file. What is taken has at least one server, and spans of time that can
/// be added to the clock.
pub fn configuration(bytes: &[u8]) -> bool {
    scratch::with_file(bytes, |path| {
        let file = path.display().to_string();
        let named = |mistakes: &[String]| {
            assert!(!mistakes.is_empty());
            assert!(mistakes.iter().all(|mistake| mistake.starts_with(&file)), "{mistakes:?}");
        };
        let of_registries = registries(Some(path));
        match Config::read(path) {
            Ok(config) => {
                assert!(of_registries.is_ok() && !config.servers.is_empty());
                let compiler = config.host.compiler.as_ref().expect("there is one");
                for span in [config.stop_grace, compiler.time_max] {
                    assert!(Instant::now().checked_add(span).is_some(), "{span:?}");
                }
                true
            }
            Err(error) => {
                named(&error.mistakes);
                if let Err(error) = of_registries {
                    named(&error.mistakes);
                }
                false
            }
        }
    })
}
