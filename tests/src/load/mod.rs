//! Load tests: clients that count, a native echo to compare with, and the memory of a process.

pub mod api;
pub mod attacks;
pub mod bare;
pub mod beside;
pub mod clients;
pub mod lanes;
pub mod memory;
pub mod mixed;
pub mod native;
pub mod price;
pub mod report;
pub mod shares;
pub mod swaps;
