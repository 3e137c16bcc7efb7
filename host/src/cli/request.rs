//! One request to the control API, and its path.

use serde_json::{Map, Value};

/// One request to the control API.
pub(super) struct Ask {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) body: Vec<u8>,
}

impl Ask {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), body: Vec::new() }
    }

    /// A request whose body has all values except nulls.
    pub(super) fn with(method: &'static str, path: String, values: Value) -> Self {
        let given: Map<_, _> = match values {
            Value::Object(values) => {
                values.into_iter().filter(|(_, value)| !value.is_null()).collect()
            }
            _ => Map::new(),
        };
        Self { method, path, body: Value::Object(given).to_string().into_bytes() }
    }
}

/// The path of a resource of a server.
pub(super) fn at(server: &str, rest: &str) -> String {
    format!("/v1/servers/{}{rest}", encoded(server))
}

/// A name in percent encoding, as part of a path.
pub(super) fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
