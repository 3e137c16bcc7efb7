//! The effective configuration of one server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::tenants::Tenant;
use crate::admission::{Network, Throttle};
use crate::event::Priority;
use crate::net::Security;
use crate::oci::Registries;
use crate::plugin::Grants;
use crate::rollout::SwapRules;
use crate::session::SessionConfig;

/// Configuration that new sessions get. A reload replaces it whole.
#[derive(Clone)]
pub(crate) struct ServerConfig {
    pub(crate) security: Security,
    pub(crate) session_config: Arc<SessionConfig>,
    /// The best class that a plugin may ask for. Raising the class of the start does not change it.
    pub(crate) ceiling: Priority,
    pub(crate) handshake: Duration,
    pub(crate) parameter: i64,
    /// Limits on new connections as configured. An operator may have changed them since.
    pub(crate) throttle: Throttle,
    /// What the plugin may import.
    pub(crate) grants: Grants,
    /// How versions are tried and rolled back.
    pub(crate) rules: SwapRules,
    /// Sources of plugins that are no files.
    pub(crate) registries: Arc<Registries>,
    /// Keys of the values that the operator configured.
    pub(crate) given: Arc<BTreeSet<String>>,
    /// The owner of the server.
    pub(crate) tenant: Arc<Tenant>,
    /// Proxies whose PROXY headers the server believes. Empty: connections have no header.
    pub(crate) proxies: Vec<Network>,
}
