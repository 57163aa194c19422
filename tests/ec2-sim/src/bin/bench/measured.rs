//! Figures over some runs, and what is aimed at.

use serde::Serialize;

/// The values of some runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Measured {
    /// Of at least one value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        let median = if values.len().is_multiple_of(2) && middle > 0 {
            f64::midpoint(at(middle - 1), at(middle))
        } else {
            at(middle)
        };
        Self { median, min: at(0), max: values.last().copied().unwrap_or_default() }
    }
}

/// One line of a section.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: Measured,
    pub(crate) unit: &'static str,
    pub(crate) aim: Option<Aim>,
}

/// The most that a value should come to.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Aim {
    pub(crate) at_most: f64,
    pub(crate) held: bool,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, values: impl IntoIterator<Item = f64>) -> Self {
        Self { what: what.into(), value: Measured::of(values), unit, aim: None }
    }

    /// The median should be at most this.
    pub(crate) fn aim(self, at_most: f64) -> Self {
        let held = self.value.median <= at_most;
        Self { aim: Some(Aim { at_most, held }), ..self }
    }
}

/// Figures that belong together.
#[derive(Debug, Serialize)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) figures: Vec<Figure>,
}

/// A count as a number to calculate with.
pub(crate) fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}
