//! The settings that the operator wrote for this plugin. Using them needs the grant `config`.

/// The value of `key`. `None` if the operator set none, or if the host cannot tell.
#[must_use]
pub fn get(key: &str) -> Option<String> {
    crate::imports::get(key).unwrap_or_default()
}

/// Every key with its value, in no particular order.
#[must_use]
pub fn all() -> Vec<(String, String)> {
    crate::imports::get_all().unwrap_or_default()
}
