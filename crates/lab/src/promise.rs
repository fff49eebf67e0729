//! What was promised of what is measured here, and whether it is kept.

use std::fmt;

use anyhow::{Result, ensure};
use lab::say;

/// That something takes no more than so much.
#[derive(Debug)]
pub(crate) struct Promise {
    pub(crate) what: String,
    /// The median of what was measured.
    pub(crate) measured: f64,
    pub(crate) at_most: f64,
    /// What both are counted in.
    pub(crate) unit: &'static str,
}

impl Promise {
    fn is_kept(&self) -> bool {
        // Not so of what is no number.
        self.measured <= self.at_most
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, measured, at_most, unit } = self;
        let verdict = if self.is_kept() { "kept" } else { "BROKEN" };
        write!(f, "{what}: {measured:.2}{unit}, promised are at most {at_most}{unit}: {verdict}")
    }
}

/// The middle of what was measured.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Says of each promise what became of it; an error if one is broken.
pub(crate) fn check(promises: &[Promise]) -> Result<()> {
    for promise in promises {
        say(&promise.to_string());
    }
    let broken = promises.iter().filter(|promise| !promise.is_kept());
    let broken: Vec<_> = broken.map(ToString::to_string).collect();
    ensure!(broken.is_empty(), "{} of {} promises are broken: {}", broken.len(), promises.len(), broken.join("; "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_above_what_was_promised_is_an_error_that_names_it() {
        let promise = |what: &str, mut runs: Vec<f64>| Promise {
            what: what.into(),
            measured: median(&mut runs),
            at_most: 1.5,
            unit: "x",
        };
        let kept = || promise("out by the firmware", vec![1.4, 1.9, 1.5]);
        check(&[kept()]).unwrap();
        let error = check(&[kept(), promise("out by kexec", vec![1.4, 1.9, 1.51])]).unwrap_err().to_string();
        assert_eq!(error, "1 of 2 promises are broken: out by kexec: 1.51x, promised are at most 1.5x: BROKEN");
        check(&[promise("nothing that can be compared", vec![f64::NAN])]).unwrap_err();
    }
}
