//! What was found of a node's new version.

use super::rules::{Broken, Rule};
use crate::aws::fleet::FleetGroup;
use crate::config::Change;
use crate::failure::{Code, Failure};

/// What was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Inspected {
    /// The rules that do not hold.
    pub(super) broken: Vec<Broken>,
    /// What is worth knowing, and refuses nothing.
    pub(super) notes: Vec<String>,
    /// What differs between the running version and the new one.
    pub(super) changes: Vec<Change>,
}

impl Inspected {
    /// Notes a fact that the caller may not read.
    pub(super) fn note_unread(&mut self, what: &str, failure: &Failure) {
        let are = if what.ends_with('s') || what.contains("types") { "are" } else { "is" };
        self.notes.push(format!("{what} cannot be read, and {are} not checked: {failure}"));
    }
}

/// A rule that a group's new version breaks.
pub(super) fn broken(rule: Option<Rule>, group: &FleetGroup, what: String, remedy: &str) -> Broken {
    Broken { rule, group: group.name.clone(), what, remedy: remedy.to_owned() }
}

/// What was read, or that it may not be read, which is noted and refuses nothing. Fails with any other failure.
pub(super) fn unless_denied<T>(answer: Result<T, Failure>) -> Result<Result<T, Failure>, Failure> {
    match answer {
        Err(failure) if failure.code != Code::AccessDenied => Err(failure),
        answer => Ok(answer),
    }
}
