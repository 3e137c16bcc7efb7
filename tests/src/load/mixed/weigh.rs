//! The resources of another process, and whether they grow.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Time for which wake-ups of an idle process are counted.
const IDLE: Duration = Duration::from_secs(2);

/// The resources of a process at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Weight {
    /// Time since the scales were made.
    pub(super) at: Duration,
    pub(super) resident_kib: u64,
    /// Open descriptors without `images`.
    pub(super) descriptors: usize,
    /// Descriptors of the engine's memory images: some for each version that is in memory.
    pub(super) images: usize,
    pub(super) threads: usize,
    pub(super) mappings: usize,
    /// Timers of the kernel: POSIX timers and timer descriptors.
    pub(super) timers: usize,
}

/// Measures the resources of one process.
pub(super) struct Scales {
    process: PathBuf,
    start: Instant,
}

impl Scales {
    pub(super) fn of(pid: u32) -> Self {
        Self { process: Path::new("/proc").join(pid.to_string()), start: Instant::now() }
    }

    fn read(&self, name: &str) -> Result<String> {
        std::fs::read_to_string(self.process.join(name)).with_context(|| name.to_owned())
    }

    pub(super) fn weigh(&self) -> Result<Weight> {
        let status = self.read("status")?;
        let resident = field(&status, "VmRSS:").context("VmRSS")?;
        let links = std::fs::read_dir(self.process.join("fd"))?.flatten();
        // A descriptor may be closed meanwhile.
        let links = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let links: Vec<_> = links.map(|link| link.to_string_lossy().into_owned()).collect();
        let count = |what: &str| links.iter().filter(|link| link.contains(what)).count();
        let images = count("memfd:");
        // Some kernels do not have this file.
        let posix = self
            .read("timers")
            .map_or(0, |text| text.lines().filter(|line| line.starts_with("ID:")).count());
        Ok(Weight {
            at: self.start.elapsed(),
            resident_kib: resident,
            descriptors: links.len() - images,
            images,
            threads: std::fs::read_dir(self.process.join("task"))?.count(),
            mappings: self.read("maps")?.lines().count(),
            timers: posix + count("[timerfd]"),
        })
    }

    /// How often each second the threads of the idle process wake. Forgotten timers show here.
    pub(super) fn wakes_per_second(&self) -> Result<f64> {
        let before = self.switches()?;
        std::thread::sleep(IDLE);
        Ok(self.switches()?.saturating_sub(before) as f64 / IDLE.as_secs_f64())
    }

    fn switches(&self) -> Result<u64> {
        let tasks = std::fs::read_dir(self.process.join("task"))?.flatten();
        // A thread may end meanwhile.
        let statuses =
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
        Ok(statuses.filter_map(|status| field(&status, "voluntary_ctxt_switches:")).sum())
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// The trend of resident memory, in KiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Trend {
    /// Slope by least squares over the second half of the run, in KiB a minute.
    pub(super) slope_per_minute: f64,
    /// Growth over the second half by that slope, in KiB.
    pub(super) growth: f64,
    /// Mean of a tenth of the samples after the first fifth, in which memory settles.
    pub(super) first: f64,
    /// Mean of the last tenth of the samples.
    pub(super) last: f64,
}

impl Trend {
    /// The trend of these samples. `None` for fewer than ten.
    pub(super) fn of(samples: &[Weight]) -> Option<Self> {
        if samples.len() < 10 {
            return None;
        }
        let (tenth, half) = (samples.len().div_ceil(10), &samples[samples.len() / 2..]);
        let settled = samples.len() / 5;
        let mean = |some: &[Weight]| {
            some.iter().map(|one| one.resident_kib as f64).sum::<f64>() / some.len() as f64
        };
        let minutes = |one: &Weight| one.at.as_secs_f64() / 60.0;
        let (mean_at, mean_kib) =
            (half.iter().map(minutes).sum::<f64>() / half.len() as f64, mean(half));
        let (mut both, mut square) = (0.0, 0.0);
        for one in half {
            let from_mean = minutes(one) - mean_at;
            both += from_mean * (one.resident_kib as f64 - mean_kib);
            square += from_mean * from_mean;
        }
        let slope = if square > 0.0 { both / square } else { 0.0 };
        let lasted = minutes(&half[half.len() - 1]) - minutes(&half[0]);
        Some(Self {
            slope_per_minute: slope,
            growth: slope * lasted,
            first: mean(&samples[settled..settled + tenth]),
            last: mean(&samples[samples.len() - tenth..]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_from_noise() {
        let sample = |number: u64, resident_kib| Weight {
            at: Duration::from_secs(30 * number),
            resident_kib,
            descriptors: 0,
            images: 0,
            threads: 0,
            mappings: 0,
            timers: 0,
        };
        let noise = |number: u64| number * 7_919 % 100;
        let flat: Vec<_> = (0..40).map(|number| sample(number, 100_000 + noise(number))).collect();
        let flat = Trend::of(&flat).expect("enough");
        assert!(
            flat.slope_per_minute.abs() < 10.0 && (flat.last - flat.first).abs() < 100.0,
            "{flat:?}"
        );
        let grows: Vec<_> =
            (0..40).map(|number| sample(number, 100_000 + 500 * number + noise(number))).collect();
        let grows = Trend::of(&grows).expect("enough");
        assert!(
            (grows.slope_per_minute - 1_000.0).abs() < 20.0 && grows.growth > 9_000.0,
            "{grows:?}"
        );
        assert_eq!(Trend::of(&[sample(0, 1)]), None);
    }
}
