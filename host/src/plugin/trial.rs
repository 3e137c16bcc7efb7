//! The instance that a plugin must be able to make before it is published, and the session of it, which leads nowhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::instance::EventProcedure;
use super::loader::IN_ITS;
use crate::event::{Alone, Budget, ClientInfo, Fault, Instance, Nowhere, Procedure, Scope};

/// A scope in which nothing can be reached.
pub(super) fn scope() -> Scope {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let info = ClientInfo { id: 0, server: "trial".into(), peer: nowhere, local: nowhere, tls: None, parameter: 0 };
    Scope { port: Arc::new(Nowhere(info)), peers: Arc::new(Alone) }
}

/// Starts one, and where it can hand sessions over, has it save and another one restore that.
pub(super) async fn rehearse(procedure: &EventProcedure, budget: Budget) -> Result<(), String> {
    let of = |function: &'static str| move |fault: Fault| format!("{IN_ITS}{function}`: {fault}");
    let mut first = procedure.instantiate(scope(), budget).await.map_err(|fault| fault.to_string())?;
    if procedure.hands_over() {
        let state = first.save(budget).await.map_err(of("save"))?;
        drop(first);
        let second = procedure.take_over(scope(), budget, budget, procedure.version(), state);
        second.await.map_err(of("restore"))?;
    }
    Ok(())
}
