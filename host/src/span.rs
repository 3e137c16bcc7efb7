//! A span of time as people write it, in the configuration file and in requests.

use std::time::Duration;

use serde::de::{Error, IgnoredAny};
use serde::{Deserialize, Deserializer};

/// A span of time with its unit: `"20s"`, `"500ms"`, `"1m 30s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

/// The value found in place of a span.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Other(IgnoredAny),
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Other(_) => {
                return Err(D::Error::custom("expected a time with its unit, as \"20s\""));
            }
        };
        let expected = |error| {
            D::Error::custom(format!(
                "`{text}`: expected a time with its unit, as \"20s\": {error}"
            ))
        };
        humantime::parse_duration(&text).map(Self).map_err(expected)
    }
}
