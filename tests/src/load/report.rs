//! Alternating rounds of two contestants, and their ratio. The machines are noisy, so only a ratio
//! of neighbouring rounds is significant.

use hdrhistogram::Histogram;

use super::clients::Seen;

/// Rounds of two contestants, in pairs.
#[derive(Debug, Default)]
pub struct Duel {
    native: Vec<f64>,
    wharf: Vec<f64>,
    latencies: Option<(Histogram<u64>, Histogram<u64>)>,
}

impl Duel {
    /// Adds one pair of rounds.
    pub fn add(&mut self, native: Seen, wharf: Seen) {
        self.native.push(native.rate);
        self.wharf.push(wharf.rate);
        match &mut self.latencies {
            None => self.latencies = Some((native.latency, wharf.latency)),
            Some((n, w)) => {
                // Both histograms have the same bounds, so this does not fail.
                let _ = (n.add(native.latency), w.add(wharf.latency));
            }
        }
    }

    /// Median of the pairs' ratios, Wharf to native.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        median(self.native.iter().zip(&self.wharf).map(|(native, wharf)| wharf / native).collect())
    }

    /// One row of a table.
    #[must_use]
    pub fn row(&self, name: &str) -> String {
        let quantiles = |histogram: &Histogram<u64>| {
            format!("{}/{}", histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99))
        };
        let (native, wharf) = self
            .latencies
            .as_ref()
            .map_or_else(Default::default, |(native, wharf)| (quantiles(native), quantiles(wharf)));
        format!(
            "| {name} | {:.0} | {:.0} | {:.3} | {native} | {wharf} |",
            median(self.native.clone()),
            median(self.wharf.clone()),
            self.ratio(),
        )
    }

    /// The head of the table that [`Duel::row`] fills.
    #[must_use]
    pub fn head() -> &'static str {
        "| load | native per s | wharf per s | ratio | native p50/p99 us | wharf p50/p99 us \
         |\n|---|---|---|---|---|---|"
    }
}

/// The median. NaN without values.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
