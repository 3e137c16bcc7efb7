//! Plugins from registries: a real one, ones that lie, and signatures, ours and others'.

mod bundles;
mod common;
mod kept;
mod liars;
mod others;
mod real;
mod signed;
mod trust;
