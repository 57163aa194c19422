//! Raw TOML → validated settings. The rest of the agent never sees the raw text.
//!
//! `syntax` parses the text past every error, `layers` merges the override into it, `reader` reads the keys that `schema`
//! declares, `validate` checks their values, and all add their mistakes to one `report`. `json_schema` prints the
//! declarations for editors.

mod difference;
mod digest;
pub mod embedded;
pub mod fault;
pub mod json_schema;
mod layers;
mod mistake;
mod model;
mod offline;
mod reader;
mod report;
mod review;
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

pub use difference::{Change, difference};
pub use digest::{BadDigest, Sha256Digest};
pub use mistake::{Mistake, Mistakes};
pub use model::{
    Account, BadVolumeId, Cluster, Config, Contents, File, FileSystemType, Format, Groups, Hooks, Lifecycle, Node,
    OnFailure, Recursive, Script, Source, Timeouts, Volume, VolumeId,
};
pub use offline::{OfflineReport, check_offline};
pub use report::UnknownKeys;
pub use review::{Review, node, review};
pub use schema::{EXT4, XFS};
pub use surroundings::{Database, Host, Unfound, Unread};

/// A configuration's text.
#[derive(Clone, PartialEq, Eq)]
pub struct Text {
    /// The name shown in errors: a path, or "user data".
    pub name: String,
    /// The TOML.
    pub text: String,
}

/// Without the text, which may hold secrets: debug output ends up in logs.
impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Text({}, {} bytes)", self.name, self.text.len())
    }
}

/// The name of the instance's user data in errors.
pub const USER_DATA: &str = "user data";

/// What the settings are checked against.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// This host, too: the accounts exist, and the hooks' script exists and defines its functions.
    ThisHost(&'static dyn Host),
    /// The text alone, as for a configuration that is checked on another machine.
    Offline,
}

/// Reads and checks a configuration. `overrides` wins key by key: a `[[volume]]` is matched by its id, a `[[file]]` by
/// its destination, and one without a match is added.
///
/// [`Scope::ThisHost`] also consults the user database, and reads the hooks' script if that is a local file.
///
/// Errors: every mistake of both texts at once; never an empty list.
pub fn load(main: Text, overrides: Option<Text>, scope: Scope) -> Result<Config, Mistakes> {
    let Loaded { config, mistakes, warnings } = load_with(main, overrides, scope, UnknownKeys::Mistakes);
    config.map(|config| Config { warnings, ..config }).ok_or(mistakes)
}

/// What came of reading a configuration.
struct Loaded {
    /// None with mistakes.
    config: Option<Config>,
    mistakes: Mistakes,
    warnings: Vec<Mistake>,
}

fn load_with(main: Text, overrides: Option<Text>, scope: Scope, unknown_keys: UnknownKeys) -> Loaded {
    let texts: Vec<Text> = std::iter::once(main).chain(overrides).collect();
    let digest = digest(&texts);
    let faults: Vec<_> = texts.iter().map(|text| fault::of_config(&text.text, text.name == USER_DATA)).collect();
    let layers = texts.len();
    let origin = texts.first().map(|text| text.name.clone()).unwrap_or_default();
    let mut report = report::Report::new(texts);
    report.unknown_keys = unknown_keys;
    // For a text that is not TOML at all, one line says more than a mistake for each of its lines.
    for (layer, fault) in faults.iter().enumerate().filter_map(|(layer, fault)| Some((layer, fault.as_ref()?))) {
        report.mistake(report::Position { layer, offset: 0 }, &fault.what, &fault.instead);
    }
    if faults.iter().any(Option::is_some) {
        return Loaded { config: None, mistakes: report.into_mistakes(), warnings: Vec::new() };
    }
    let fields = layers::read(&mut report, layers);
    let config = validate::config(&report, &fields, scope, digest);
    let warnings = report.take_warnings();
    let mistakes = report.into_mistakes();
    let config = config.ok().filter(|_| mistakes.is_empty()).map(|config| Config { origin, ..config });
    Loaded { config, mistakes, warnings }
}

/// `[lifecycle]` of a configuration with mistakes: its node is held like any other that fails, which takes the hook's name.
/// A wrong value in the table itself counts as its default, except for the two names.
pub fn lifecycle(main: Text, overrides: Option<Text>) -> Option<Lifecycle> {
    let texts: Vec<Text> = std::iter::once(main).chain(overrides).collect();
    let layers = texts.len();
    let mut report = report::Report::new(texts);
    let fields = layers::read(&mut report, layers);
    validate::lifecycle_alone(&report, &fields)
}

/// Whether the text consists of `source = "imds"`: the settings are in the instance's user data.
///
/// [`load`] reports a `source` beside other keys, or with another value.
pub fn wants_user_data(text: &str) -> bool {
    let (root, errors) = DeTable::parse_recoverable(text);
    let root = root.get_ref();
    let source = root.get("source").and_then(|value| value.get_ref().as_str());
    errors.is_empty() && root.len() == 1 && source == Some(IMDS)
}

/// The value of `source` for the user data.
const IMDS: &str = "imds";

/// The digest over the texts, each preceded by its length, so that one text differs from the same text in two layers.
fn digest(texts: &[Text]) -> String {
    let mut hash = Sha256::new();
    for Text { text, .. } in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    Sha256Digest(hash.finalize().into()).to_string()
}
