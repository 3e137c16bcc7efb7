//! Plugins from registries: a real registry, lying ones, and signatures by this program and by
//! others.

mod bundles;
mod common;
mod kept;
mod liars;
mod others;
mod real;
mod signed;
mod trust;
