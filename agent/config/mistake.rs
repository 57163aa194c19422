//! A configuration's mistakes, and their form for people.

use std::fmt;

/// One thing to correct, with its position.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The text's name, as given to [`load`](super::load): a path or "user data".
    pub source: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters (not bytes).
    pub column: usize,
    /// What is wrong, preceded by the table and the key. Never holds a file's contents or a script.
    pub what: String,
    /// The remedy, as an instruction: `write "/data"`.
    pub instead: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}; {}", self.source, self.line, self.column, self.what, self.instead)
    }
}

/// Every mistake of a configuration, sorted by source and position. Never empty when [`load`](super::load) returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Sorts by `order` of the source, then by position, and removes duplicates.
    pub(super) fn new<O: Ord>(mut found: Vec<Mistake>, order: impl Fn(&str) -> O) -> Self {
        found.sort_by(|a, b| order(&a.source).cmp(&order(&b.source)).then_with(|| a.cmp(b)));
        found.dedup();
        Self(found)
    }

    /// The mistakes in the order of their position.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }

    /// The number of mistakes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no mistakes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "the configuration has {} mistake{plural}", self.0.len())?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n{mistake}"))
    }
}

impl std::error::Error for Mistakes {}
