//! Load: a native echo to compare with, clients that count, and what a process weighs.

pub mod bare;
pub mod beside;
pub mod clients;
pub mod lanes;
pub mod memory;
pub mod native;
pub mod price;
pub mod report;
pub mod shares;
pub mod swaps;
