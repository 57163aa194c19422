//! Raw TOML → validated settings. Nothing else of the agent sees the raw text.
//!
//! The way of a text: `syntax` parses it past every error, `layers` lays the override over it, `reader` reads the keys
//! that `schema` declares, `validate` checks their values, and each of them adds to one `report`. `json_schema` prints
//! the declarations for editors.

pub mod fault;
pub mod json_schema;
mod layers;
mod mistake;
mod model;
mod reader;
mod report;
pub mod schema;
pub mod script;
mod surroundings;
mod syntax;
mod tree;
pub mod user_data;
mod validate;

#[cfg(test)]
mod tests;

use sha2::{Digest, Sha256};
use toml::de::DeTable;

pub(crate) use model::without_secrets;

pub use mistake::{Mistake, Mistakes};
pub use model::{
    Account, BadDigest, BadVolumeId, Config, Contents, File, FileSystemType, Format, Hooks, Lifecycle, Node, OnFailure,
    Recursive, Script, Sha256Digest, Source, Timeouts, Volume, VolumeId,
};
pub use schema::{EXT4, XFS};
pub use surroundings::{Database, Host, Unfound, Unread};

/// A configuration's text.
#[derive(Clone, PartialEq, Eq)]
pub struct Text {
    /// What errors call it: a path, or "user data".
    pub name: String,
    /// The TOML.
    pub text: String,
}

/// Leaves the text out: it may hold secrets, and debug output ends in logs.
impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Text({}, {} bytes)", self.name, self.text.len())
    }
}

/// What errors call the instance's user data.
pub const USER_DATA: &str = "user data";

/// What the settings are checked against.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// This host too: do the accounts exist, is the hooks' script there and does it define its functions?
    ThisHost(&'static dyn Host),
    /// The text alone, so that a configuration can be checked elsewhere.
    Offline,
}

/// Reads and checks a configuration. `overrides` wins key by key: a `[[volume]]` is matched by its id, a `[[file]]` by
/// its destination, and one that matches none is added.
///
/// Under [`Scope::ThisHost`] it looks at the user database and reads the hooks' script where that is a local file.
///
/// Errors: every mistake of both texts at once; never an empty list.
pub fn load(main: Text, overrides: Option<Text>, scope: Scope) -> Result<Config, Mistakes> {
    let texts: Vec<Text> = std::iter::once(main).chain(overrides).collect();
    let digest = digest(&texts);
    let faults: Vec<_> = texts.iter().map(|text| fault::of_config(&text.text, text.name == USER_DATA)).collect();
    let layers = texts.len();
    let origin = texts.first().map(|text| text.name.clone()).unwrap_or_default();
    let mut report = report::Report::new(texts);
    // Of a text that is no TOML at all one line says more than what its first line lacks, and its second, and so on.
    for (layer, fault) in faults.iter().enumerate().filter_map(|(layer, fault)| Some((layer, fault.as_ref()?))) {
        report.mistake(report::Position { layer, offset: 0 }, &fault.what, &fault.instead);
    }
    if faults.iter().any(Option::is_some) {
        return Err(report.into_mistakes());
    }
    let fields = layers::read(&mut report, layers);
    let config = validate::config(&report, &fields, scope, digest);
    let warnings = report.take_warnings();
    let mistakes = report.into_mistakes();
    match config {
        Ok(config) if mistakes.is_empty() => Ok(Config { origin, warnings, ..config }),
        _ => Err(mistakes),
    }
}

/// `[lifecycle]` of a configuration that has mistakes elsewhere: a node whose configuration is wrong is held as any other
/// that fails, and for that its hook must be known. A wrong value of the table itself counts as its default, except the two
/// names.
pub fn lifecycle(main: Text, overrides: Option<Text>) -> Option<Lifecycle> {
    let texts: Vec<Text> = std::iter::once(main).chain(overrides).collect();
    let layers = texts.len();
    let mut report = report::Report::new(texts);
    let fields = layers::read(&mut report, layers);
    validate::lifecycle_alone(&report, &fields)
}

/// Whether the text says only `source = "imds"`: the settings are in the instance's user data.
///
/// A `source` in company, or another word, is left to [`load`] to report.
pub fn wants_user_data(text: &str) -> bool {
    let (root, errors) = DeTable::parse_recoverable(text);
    let root = root.get_ref();
    let source = root.get("source").and_then(|value| value.get_ref().as_str());
    errors.is_empty() && root.len() == 1 && source == Some(IMDS)
}

/// The word for the instance's metadata service.
const IMDS: &str = "imds";

/// The digest over the texts, each behind its length, so that no text can pass for another layering of itself.
fn digest(texts: &[Text]) -> String {
    let mut hash = Sha256::new();
    for Text { text, .. } in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    Sha256Digest(hash.finalize().into()).to_string()
}
