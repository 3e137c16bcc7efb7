//! Harness of the suites: servers of bundled plugins and of guests made for a test, certificates, clients, and load.

pub mod load;
