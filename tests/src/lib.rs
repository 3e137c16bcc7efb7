//! Helpers of the test suites: servers of bundled plugins and of guests made for a test,
//! certificates, clients, and load.

pub mod certificates;
pub mod clients;
pub mod contract;
pub mod control_site;
pub mod docker_registry;
pub mod fake_registry;
pub mod fake_systemd;
pub mod guests;
pub mod holders;
pub mod imports;
pub mod languages;
pub mod load;
pub mod machine;
pub mod new_clients;
pub mod new_process;
pub mod oracle;
pub mod packets;
pub mod ports;
pub mod process;
pub mod readers;
pub mod released;
pub mod rng;
pub mod seeds;
pub mod servers;
pub mod shapes;
pub mod sources;
pub mod transcript;
