//! How the configuration is read again on a request.

use std::pin::Pin;
use std::sync::Arc;

use crate::servers::{PlanError, Reloaded, Servers};

type Reloading = Pin<Box<dyn Future<Output = Result<Reloaded, PlanError>> + Send>>;

/// A function that reads the configuration again and puts it in force.
#[derive(Clone)]
pub struct Reload(Arc<dyn Fn(Arc<Servers>) -> Reloading + Send + Sync>);

impl Reload {
    /// Wraps a function. Its error names all mistakes of the configuration.
    pub fn new<F>(reload: impl Fn(Arc<Servers>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Reloaded, PlanError>> + Send + 'static,
    {
        Self(Arc::new(move |servers| Box::pin(reload(servers))))
    }

    /// Reloads the configuration.
    ///
    /// # Errors
    /// All mistakes of the configuration, or the concurrent change that prevented the reload.
    /// Nothing was changed.
    pub async fn run(&self, servers: &Arc<Servers>) -> Result<Reloaded, PlanError> {
        (self.0)(Arc::clone(servers)).await
    }
}
