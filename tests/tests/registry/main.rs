//! Plugins from registries: a real one, ones that lie, and signatures.

mod common;
mod kept;
mod liars;
mod real;
mod signed;
