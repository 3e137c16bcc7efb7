//! The memory of a process, as the kernel counts it.

use anyhow::{Context, Result};

/// Memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// Resident pages, in KiB.
    pub resident_kib: u64,
    /// Page tables, in KiB.
    pub tables_kib: u64,
}

impl Weight {
    /// The memory of this process now.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn now() -> Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| -> Result<u64> {
            let line =
                status.lines().find_map(|line| line.strip_prefix(name)).context(name.to_owned())?;
            Ok(line.trim().trim_end_matches(" kB").parse()?)
        };
        Ok(Self { resident_kib: field("VmRSS:")?, tables_kib: field("VmPTE:")? })
    }

    /// Resident pages and page tables together, in KiB.
    #[must_use]
    pub fn total_kib(self) -> u64 {
        self.resident_kib + self.tables_kib
    }
}
