//! Checks a configuration's text alone, before it reaches a node.

use super::{Loaded, Mistake, Mistakes, Scope, Text, UnknownKeys, load_with};

/// What the check of a text found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineReport {
    /// For these a node refuses the configuration. Empty if there are none.
    pub errors: Mistakes,
    /// Settings that are valid but probably unintended, and unknown keys if these are warnings.
    pub warnings: Vec<Mistake>,
    /// What the configuration holds, in a line; none with errors.
    pub summary: Option<String>,
}

/// Checks the text alone: neither the accounts nor the script of the host. The text stands on its own: one that consists of
/// `source = "imds"` has an error, because there are no settings in it.
pub fn check_offline(text: Text, unknown_keys: UnknownKeys) -> OfflineReport {
    let Loaded { config, mistakes, warnings } = load_with(text, None, Scope::Offline, unknown_keys);
    OfflineReport { errors: mistakes, warnings, summary: config.map(|config| config.summary()) }
}
