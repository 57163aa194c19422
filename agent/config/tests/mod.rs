//! The configuration as its user meets it: text in, settings or mistakes out.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod difference;
mod json_schema;
mod mistakes;
mod offline;
mod properties;
mod settings;
mod toml_words;

use super::{Config, Mistakes, Scope, Text, load};

/// A configuration with nothing wrong in it, for tests that add one mistake.
const NODE: &str = "[node]\nid = \"00\"\nip = \"10.0.1.10\"\n";

fn text(name: &str, text: &str) -> Text {
    Text { name: name.to_owned(), text: text.to_owned() }
}

/// Loads one text, offline. The JSON Schema must accept whatever the agent accepts, in every test.
fn offline(toml: &str) -> Result<Config, Mistakes> {
    let loaded = load(text("config.toml", toml), None, Scope::Offline);
    if loaded.is_ok() {
        json_schema::validate(toml).unwrap();
    }
    loaded
}

/// Loads a text with an override, offline.
fn layered(main: &str, over: &str) -> Result<Config, Mistakes> {
    load(text("config.toml", main), Some(text("override.toml", over)), Scope::Offline)
}

/// The mistakes or warnings, as shown.
fn lines<'m>(mistakes: impl IntoIterator<Item = &'m super::Mistake>) -> Vec<String> {
    mistakes.into_iter().map(ToString::to_string).collect()
}
