//! Harness of the suites: servers of bundled plugins and of guests made for a test, certificates,
//! clients, and load.

pub mod certificates;
pub mod clients;
pub mod contract;
pub mod depot;
pub mod guests;
pub mod heir;
pub mod holders;
pub mod imports;
pub mod languages;
pub mod liar;
pub mod load;
pub mod manager;
pub mod newcomers;
pub mod oracle;
pub mod packets;
pub mod process;
pub mod readers;
pub mod released;
pub mod seeds;
pub mod servers;
pub mod shapes;
pub mod site;
pub mod transcript;
