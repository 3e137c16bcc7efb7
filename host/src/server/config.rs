//! The effective configuration of one server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::tenants::Tenant;
use super::versions::SwapRules;
use crate::admission::{Network, Throttle};
use crate::event::Priority;
use crate::net::Security;
use crate::oci::Registries;
use crate::plugin::Grants;
use crate::session::SessionConfig;

/// What new clients get. A reload replaces it whole.
#[derive(Clone)]
pub(crate) struct ServerConfig {
    pub(crate) security: Security,
    pub(crate) session_config: Arc<SessionConfig>,
    /// The best class a plugin may ask for, whatever the class of the start was raised to.
    pub(super) ceiling: Priority,
    pub(crate) handshake: Duration,
    pub(crate) parameter: i64,
    /// Limits on newcomers as they were described; who steers the server may have changed them
    /// since.
    pub(super) throttle: Throttle,
    /// What the plugin may import.
    pub(super) grants: Grants,
    /// How versions are tried and taken back.
    pub(super) rules: SwapRules,
    /// Where plugins come from that are no files.
    pub(super) registries: Arc<Registries>,
    /// Keys of what somebody wrote down.
    pub(super) given: Arc<BTreeSet<String>>,
    /// Whose server it is.
    pub(super) tenant: Arc<Tenant>,
    /// Whose PROXY headers are believed. Empty: there are none.
    pub(crate) proxies: Vec<Network>,
}
