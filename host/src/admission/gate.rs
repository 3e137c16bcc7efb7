//! The gate of one server, which decides over new connections.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwap;

use super::addresses::{AddressPlace, Addresses};
use super::count::Slot;
use super::room::RoomPlace;
use super::{Change, ClientCount, InstanceRoom, Networks, Refusal, Throttle, ThrottleError};
use crate::locks::lock;

/// One client's places: on its server, at its address, with its server's tenant and in the process.
/// Dropping the permit frees all of them.
#[derive(Debug)]
pub struct Permit {
    _places: ClientPlaces,
    _address: AddressPlace,
}

#[derive(Debug)]
struct ClientPlaces {
    _server: Slot,
    _tenant: Slot,
    _process: Slot,
    _instance: Option<RoomPlace>,
}

/// What the clients of several servers count against together.
#[derive(Debug, Clone)]
pub struct SharedLimits {
    /// Clients of the process.
    pub process: Arc<ClientCount>,
    /// Instances of the server. `None`: its sessions get no instances of their own.
    pub instances: Option<Arc<dyn InstanceRoom>>,
    /// Clients of the server's tenant.
    pub tenant: Arc<ClientCount>,
}

/// A client behind a proxy that has a place, and whose true address is not known yet.
#[derive(Debug)]
pub struct PreAdmitted<C> {
    client: C,
    places: ClientPlaces,
}

/// An admitted client. Only the gate makes one, and the handshake takes only a client in this
/// state.
#[derive(Debug)]
pub struct Admitted<C> {
    client: C,
    permit: Permit,
}

impl<C> PreAdmitted<C> {
    /// Runs a step for the client, which keeps its place. If the step fails, the place is given
    /// back.
    ///
    /// # Errors
    /// The step's error.
    pub async fn and_then<D, E>(
        self,
        step: impl AsyncFnOnce(C) -> Result<D, E>,
    ) -> Result<PreAdmitted<D>, E> {
        Ok(PreAdmitted { client: step(self.client).await?, places: self.places })
    }
}

impl<C> std::ops::Deref for PreAdmitted<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.client
    }
}

impl<C> Admitted<C> {
    /// Splits the client from its permit, for the next step of the connection.
    #[must_use]
    pub fn into_parts(self) -> (C, Permit) {
        (self.client, self.permit)
    }
}

impl<C> std::ops::Deref for Admitted<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.client
    }
}

/// Decides over the new connections of one server. Its limits may change while it has clients.
#[derive(Debug)]
pub struct Gate {
    clients: Arc<ClientCount>,
    shared: ArcSwap<SharedLimits>,
    addresses: Arc<Addresses>,
    throttle: Mutex<Throttle>,
    networks: ArcSwap<Networks>,
}

impl Gate {
    /// Creates a gate with these limits, networks and shared limits.
    #[must_use]
    pub fn new(throttle: Throttle, networks: Networks, shared: SharedLimits) -> Self {
        Self {
            clients: ClientCount::up_to(throttle.max_clients),
            shared: ArcSwap::from_pointee(shared),
            addresses: Arc::default(),
            throttle: Mutex::new(throttle),
            networks: ArcSwap::from_pointee(networks),
        }
    }

    /// Admits or refuses a client. A refusal allocates nothing, unless the client's address is new.
    ///
    /// # Errors
    /// The [`Refusal`]; the client is dropped, which closes it.
    pub fn admit<C>(
        &self,
        client: C,
        address: IpAddr,
        now: Instant,
    ) -> Result<Admitted<C>, Refusal> {
        if !self.networks.load().admit(address) {
            return Err(Refusal::Denied);
        }
        let places = self.places()?;
        let address = self.addresses.take(address, &self.throttle(), now)?;
        Ok(Admitted { client, permit: Permit { _places: places, _address: address } })
    }

    /// Gives a place to a client that another process has admitted. Rates and networks are not
    /// checked: they are for new connections.
    ///
    /// # Errors
    /// The [`Refusal`]; there is no place.
    pub fn readmit(&self, address: IpAddr, now: Instant) -> Result<Permit, Refusal> {
        let places = self.places()?;
        let limits = Throttle { rate_per_address: 0.0, ..self.throttle() };
        Ok(Permit { _places: places, _address: self.addresses.take(address, &limits, now)? })
    }

    /// Gives a place to a client whose address a proxy has not reported yet: the first half of
    /// [`Gate::admit`].
    ///
    /// # Errors
    /// The [`Refusal`]; the client is dropped, which closes it.
    pub fn pre_admit<C>(&self, client: C) -> Result<PreAdmitted<C>, Refusal> {
        Ok(PreAdmitted { client, places: self.places()? })
    }

    /// Admits or refuses a client by the address that the proxy reported: the second half of
    /// [`Gate::admit`].
    ///
    /// # Errors
    /// The [`Refusal`]; the client is dropped, which closes it.
    pub fn admit_proxied<C>(
        &self,
        pre_admitted: PreAdmitted<C>,
        address: IpAddr,
        now: Instant,
    ) -> Result<Admitted<C>, Refusal> {
        if !self.networks.load().admit(address) {
            return Err(Refusal::Denied);
        }
        let address = self.addresses.take(address, &self.throttle(), now)?;
        Ok(Admitted {
            client: pre_admitted.client,
            permit: Permit { _places: pre_admitted.places, _address: address },
        })
    }

    fn places(&self) -> Result<ClientPlaces, Refusal> {
        let shared = self.shared.load();
        let server = self.clients.take().ok_or(Refusal::MaxClients)?;
        let tenant = shared.tenant.take().ok_or(Refusal::TenantClients)?;
        let process = shared.process.take().ok_or(Refusal::Overload)?;
        let instance = shared
            .instances
            .as_ref()
            .map(|room| RoomPlace::claim(room).ok_or(Refusal::Overload))
            .transpose()?;
        Ok(ClientPlaces {
            _server: server,
            _tenant: tenant,
            _process: process,
            _instance: instance,
        })
    }

    /// Returns the number of clients now. Clients in the handshake and ending clients count, too.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.taken()
    }

    /// Returns the limits in force.
    #[must_use]
    pub fn throttle(&self) -> Throttle {
        *lock(&self.throttle)
    }

    /// Changes limits for new connections; clients with a place keep it. Returns the limits before.
    ///
    /// # Errors
    /// [`ThrottleError`]; nothing was changed.
    pub fn change(&self, change: Change) -> Result<Throttle, ThrottleError> {
        let mut throttle = lock(&self.throttle);
        let changed = throttle.changed(change)?;
        self.clients.set_max(changed.max_clients);
        if (changed.rate_per_address, changed.burst())
            != (throttle.rate_per_address, throttle.burst())
        {
            self.addresses.forget_rates();
        }
        Ok(std::mem::replace(&mut *throttle, changed))
    }

    /// Changes the shared limits of new connections. Clients with a place count against the old
    /// ones.
    pub fn set_shared_limits(&self, shared: SharedLimits) {
        self.shared.store(Arc::new(shared));
    }

    /// Changes which networks are admitted. Clients with a place keep it.
    pub fn set_networks(&self, networks: Networks) {
        self.networks.store(Arc::new(networks));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    #[derive(Debug)]
    struct InstanceSlots(Mutex<usize>);

    impl InstanceSlots {
        fn of(count: usize) -> Arc<Self> {
            Arc::new(Self(Mutex::new(count)))
        }

        fn left(&self) -> usize {
            *self.0.lock().expect("a number")
        }
    }

    impl InstanceRoom for InstanceSlots {
        fn claim(&self) -> Option<usize> {
            let mut left = self.0.lock().expect("a number");
            *left = left.checked_sub(1)?;
            Some(1)
        }

        fn give(&self, claimed: usize) {
            *self.0.lock().expect("a number") += claimed;
        }
    }

    fn gate(max_clients: usize, process: Arc<ClientCount>) -> Gate {
        let shared = SharedLimits { process, instances: None, tenant: ClientCount::up_to(0) };
        Gate::new(Throttle { max_clients, ..Throttle::default() }, Networks::default(), shared)
    }

    fn admit(gate: &Gate) -> Result<Admitted<()>, Refusal> {
        gate.admit((), Ipv4Addr::LOCALHOST.into(), Instant::now())
    }

    #[test]
    fn freed_place_is_given_again() {
        let gate = gate(2, ClientCount::up_to(0));
        let first = admit(&gate).expect("below the maximum");
        let second = admit(&gate).expect("at the maximum");
        assert_eq!(admit(&gate).err(), Some(Refusal::MaxClients));
        drop(first);
        assert_eq!(gate.clients(), 1);
        let third = admit(&gate).expect("a place was freed");
        drop((second, third));
        assert_eq!(gate.clients(), 0);
    }

    #[test]
    fn full_process_gives_the_servers_place_back() {
        let process = ClientCount::up_to(1);
        let (one, other) = (gate(0, process.clone()), gate(5, process));
        let held = admit(&one).expect("room");
        assert_eq!(admit(&other).err(), Some(Refusal::Overload));
        assert_eq!(other.clients(), 0);
        drop(held);
        assert!(admit(&other).is_ok());
    }

    #[test]
    fn servers_of_a_tenant_share_its_places() {
        let (process, tenant, slots) =
            (ClientCount::up_to(0), ClientCount::up_to(2), InstanceSlots::of(1));
        let gate = |instances| {
            let shared = SharedLimits {
                process: Arc::clone(&process),
                instances,
                tenant: Arc::clone(&tenant),
            };
            Gate::new(Throttle::default(), Networks::default(), shared)
        };
        let (own, shared) = (gate(Some(Arc::clone(&slots) as Arc<dyn InstanceRoom>)), gate(None));
        let first = admit(&own).expect("a slot and a place");
        assert_eq!(admit(&own).err(), Some(Refusal::Overload));
        let second = admit(&shared).expect("no slot is needed");
        assert_eq!(admit(&shared).err(), Some(Refusal::TenantClients));
        drop((first, second));
        assert_eq!((process.taken(), tenant.taken(), slots.left()), (0, 0, 1));
    }

    #[test]
    fn lowered_limit_keeps_clients_and_admits_none() {
        let gate = gate(4, ClientCount::up_to(0));
        let mut inside: Vec<_> = (0..4).map(|_| admit(&gate).expect("room")).collect();
        gate.change(Change { max_clients: Some(2), ..Change::default() }).expect("a limit");
        for left in [4, 3, 2] {
            assert_eq!((gate.clients(), admit(&gate).err()), (left, Some(Refusal::MaxClients)));
            inside.pop();
        }
        assert!(admit(&gate).is_ok());
    }

    #[test]
    fn change_touches_named_limits_only() {
        let gate = gate(4, ClientCount::up_to(0));
        let change =
            Change { accept_interval: Some(Duration::from_millis(5)), ..Change::default() };
        let before = gate.change(change).expect("limits");
        assert_eq!((before.max_clients, before.accept_interval), (4, Duration::ZERO));
        for rate in [-1.0, f64::NAN, f64::INFINITY] {
            let change =
                Change { max_clients: Some(9), rate_per_address: Some(rate), ..Change::default() };
            assert_eq!(gate.change(change).expect_err("no rate").limit, "rate_per_address");
        }
        assert_eq!(
            (gate.throttle().max_clients, gate.throttle().accept_interval),
            (4, Duration::from_millis(5))
        );
    }

    #[test]
    fn refused_proxied_client_gives_its_place_back() {
        let gate = gate(1, ClientCount::up_to(0));
        let deny = vec!["192.0.2.0/24".parse().expect("a network")];
        gate.set_networks(Networks { allow: Vec::new(), deny });
        let pre_admitted = gate.pre_admit(()).expect("room");
        assert_eq!(gate.pre_admit(()).err(), Some(Refusal::MaxClients));
        let known =
            gate.admit_proxied(pre_admitted, Ipv4Addr::new(192, 0, 2, 9).into(), Instant::now());
        assert_eq!((known.err(), gate.clients()), (Some(Refusal::Denied), 0));
    }
}
