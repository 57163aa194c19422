//! The demo's statements, compared with the facts.

use std::fmt::{Debug, Display};

/// How many were compared, and those that differed.
#[derive(Default)]
pub(crate) struct Checks {
    pub(crate) made: usize,
    pub(crate) differing: Vec<String>,
}

impl Checks {
    pub(crate) fn equal<T: PartialEq + Debug + ?Sized>(&mut self, what: impl Display, seen: &T, told: &T) {
        let differs = seen != told;
        self.holds(format_args!("{what}: seen {seen:?}, told {told:?}"), !differs);
    }

    pub(crate) fn holds(&mut self, what: impl Display, holds: bool) {
        self.made += 1;
        if !holds {
            self.differing.push(what.to_string());
        }
    }
}
