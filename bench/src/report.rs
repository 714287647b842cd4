//! Figures, and the table of them against their budgets.

use std::fmt;

/// Which way a figure should go.
#[derive(Clone, Copy)]
pub(crate) enum Budget {
    AtMost(f64),
    AtLeast(f64),
    /// Shown without judgement.
    None,
}

struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    budget: Budget,
    /// Where the time went, or what the figure is of.
    note: String,
}

/// A table of figures.
#[derive(Default)]
pub(crate) struct Report(Vec<Row>);

impl Report {
    pub(crate) fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str, budget: Budget) {
        self.add_with(what, value, unit, budget, String::new());
    }

    pub(crate) fn add_with(
        &mut self,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        budget: Budget,
        note: String,
    ) {
        let row = Row { what: what.into(), value, unit, budget, note };
        eprintln!("  {}: {} {} {}", row.what, number(value), unit, row.note);
        self.0.push(row);
    }
}

fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

/// The last column is the figure's ratio to its budget: below 1 is better for what should be small, above 1 for what should
/// be large.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<62} {:>10} {:<5} {:>10} {:>7}", "what", "measured", "", "budget", "ratio")?;
        for row in &self.0 {
            let (budget, ratio, missed) = match row.budget {
                Budget::AtMost(limit) => (format!("≤ {}", number(limit)), row.value / limit, row.value > limit),
                Budget::AtLeast(limit) => (format!("≥ {}", number(limit)), row.value / limit, row.value < limit),
                Budget::None => (String::new(), f64::NAN, false),
            };
            let ratio = if ratio.is_nan() { String::new() } else { format!("{ratio:.2}") };
            let mark = if missed { " MISSED" } else { "" };
            let (what, value, unit) = (&row.what, number(row.value), row.unit);
            let note = if row.note.is_empty() { String::new() } else { format!("  ({})", row.note) };
            writeln!(f, "{what:<62} {value:>10} {unit:<5} {budget:>10} {ratio:>7}{mark}{note}")?;
        }
        Ok(())
    }
}

/// A percentile (0 to 100) of samples; the median is the 50th.
pub(crate) fn percentile(samples: &mut [f64], percent: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * (samples.len() as f64 - 1.0)).round() as usize;
    samples.get(rank).copied().unwrap_or(f64::NAN)
}
