//! What differs between two pieces of user data, key by key, for an operator's eyes and logs: without secrets.
//!
//! A value is shown only where its key is known to hold none, and the value looks as that key's values do. Of all others only the
//! digest is shown: of contents and scripts, of URLs with a query or a user, of keys that this version does not know, and of all
//! that stands around the configuration.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use toml::de::{DeTable, DeValue};

use super::digest::Sha256Digest;
use super::embedded::{self, Embedded};
use super::schema::{self, Kind, Table, file, volume};
use super::validate::value;

/// One key with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key as one writes it: `node.id`, `volume[/mydata].owner`, `file[/etc/app.conf].contents`. Without a configuration on
    /// both sides: "user data".
    pub key: String,
    /// The value as TOML on one line, or its digest; none where the key is not written.
    pub old: Option<String>,
    /// The same of the new user data.
    pub new: Option<String>,
}

/// The changes between two pieces of user data, decoded from base64, in the order of the configuration's schema. Empty only if
/// they are the same.
pub fn difference(old: Option<&[u8]>, new: Option<&[u8]>) -> Vec<Change> {
    if old == new {
        return Vec::new();
    }
    let sized = |bytes: &[u8]| format!("{} ({} bytes)", short_digest(bytes), bytes.len());
    let whole = Change { key: "user data".to_owned(), old: old.map(sized), new: new.map(sized) };
    let parts = |bytes: Option<&[u8]>| match bytes.map(embedded::find) {
        Some(Embedded::Config { text, around }) => Some((text, around)),
        _ => None,
    };
    let (Some((old, old_around)), Some((new, new_around))) = (parts(old), parts(new)) else {
        return vec![whole];
    };
    let mut changes = between(&old, &new);
    if old_around != new_around {
        let digest = |around: &str| (!around.is_empty()).then(|| short_digest(around.as_bytes()));
        let key = "user data outside of the configuration".to_owned();
        changes.push(Change { key, old: digest(&old_around), new: digest(&new_around) });
    }
    // The same texts in another form: packed, or indented otherwise.
    if changes.is_empty() { vec![whole] } else { changes }
}

/// The changes between two configurations.
fn between(old: &str, new: &str) -> Vec<Change> {
    if old == new {
        return Vec::new();
    }
    let unread = |key: &str| {
        let digest = |text: &str| Some(short_digest(text.as_bytes()));
        vec![Change { key: key.to_owned(), old: digest(old), new: digest(new) }]
    };
    let (Ok(old_root), Ok(new_root)) = (DeTable::parse(old), DeTable::parse(new)) else {
        return unread("the configuration, which is not valid TOML");
    };
    let (mut old_leaves, new_leaves) = (leaves(old_root.get_ref()), leaves(new_root.get_ref()));
    let mut changes = BTreeMap::new();
    for (place, new) in new_leaves {
        let old = old_leaves.remove(&place);
        if old.as_ref().is_none_or(|old| old.value.whole != new.value.whole) {
            let old = old.map(|old| old.value.shown);
            changes.insert(place, Change { key: new.key, old, new: Some(new.value.shown) });
        }
    }
    for (place, old) in old_leaves {
        changes.insert(place, Change { key: old.key, old: Some(old.value.shown), new: None });
    }
    if changes.is_empty() {
        return unread("the configuration's comments or layout");
    }
    changes.into_values().collect()
}

/// A value and its key.
struct Leaf {
    /// As one writes it.
    key: String,
    value: Shown,
}

/// Where a leaf stands, in the order of the schema; what the schema does not have follows, sorted by name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    table: (usize, String),
    entry: String,
    key: (usize, String),
}

fn leaves(root: &DeTable<'_>) -> BTreeMap<Place, Leaf> {
    let mut leaves = BTreeMap::new();
    for (name, value) in root {
        let name: &str = name.get_ref();
        let rank = schema::TABLES.iter().position(|table| table.name == name).unwrap_or(usize::MAX);
        let place = |entry: &str, key| Place { table: (rank, name.to_owned()), entry: entry.to_owned(), key };
        let mut add = |entry: &str, fields: &DeTable<'_>| {
            let found = entry_leaves(schema::table(name), &format!("{}{entry}", bare(name)), fields);
            leaves.extend(found.into_iter().map(|(key, leaf)| (place(entry, key), leaf)));
        };
        match value.get_ref() {
            DeValue::Table(fields) => add("", fields),
            DeValue::Array(list) if !list.is_empty() && list.iter().all(|entry| entry.get_ref().is_table()) => {
                let mut names = Vec::new();
                for fields in list.iter().filter_map(|entry| entry.get_ref().as_table()) {
                    let name = entry_name(name, fields).filter(|name| !names.contains(name));
                    let name = name.unwrap_or_else(|| format!("[#{}]", names.len() + 1));
                    add(&name, fields);
                    names.push(name);
                }
            }
            value => {
                let value = shown(Some(&schema::root::TABLE), name, value);
                leaves.insert(place("", (0, String::new())), Leaf { key: bare(name), value });
            }
        }
    }
    leaves
}

/// How an entry of a repeated table is told from the others: a volume by its mount path, a file by its destination.
fn entry_name(table: &str, fields: &DeTable<'_>) -> Option<String> {
    let by = match table {
        name if name == volume::TABLE.name => &volume::MOUNT_PATH,
        name if name == file::TABLE.name => &file::DESTINATION,
        _ => return None,
    };
    let path = fields.get(by.name)?.get_ref().as_str()?;
    is_open(by.kind, path).then(|| format!("[{path}]"))
}

/// The leaves of one table, whose keys begin with `front`, each with the rank and name of its key.
fn entry_leaves(table: Option<&'static Table>, front: &str, fields: &DeTable<'_>) -> Vec<((usize, String), Leaf)> {
    if fields.is_empty() {
        let leaf = Leaf { key: front.to_owned(), value: Shown::open("{}".to_owned()) };
        return vec![((0, String::new()), leaf)];
    }
    let has_text = fields.get(file::CONTENTS.name).is_some();
    let leaf = |name: &str, value: &DeValue<'_>| {
        let leaf = Leaf { key: format!("{front}.{}", bare(name)), value: shown(table, name, value) };
        // The same bytes, written in two ways.
        let is_encoded = name == file::CONTENTS_BASE64.name && !has_text;
        let name = if is_encoded { file::CONTENTS.name } else { name };
        let rank = table.and_then(|table| table.keys.iter().position(|key| key.name == name));
        ((rank.unwrap_or(usize::MAX), name.to_owned()), leaf)
    };
    fields.iter().map(|(name, value)| leaf(name.get_ref(), value.get_ref())).collect()
}

/// A value to compare, and what is shown of it.
struct Shown {
    whole: String,
    shown: String,
}

/// The most characters of a value that are shown.
const LONGEST: usize = 100;

impl Shown {
    fn open(whole: String) -> Self {
        let shown = match whole.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}… ({})", &whole[..end], short_digest(whole.as_bytes())),
            None => whole.clone(),
        };
        Shown { whole, shown }
    }

    fn secret(bytes: &[u8]) -> Self {
        Shown { whole: Sha256Digest::of(bytes).to_string(), shown: short_digest(bytes) }
    }
}

fn shown(table: Option<&'static Table>, name: &str, value: &DeValue<'_>) -> Shown {
    let kind = table.and_then(|table| table.key(name)).map(|key| key.kind);
    match (kind, value) {
        (Some(Kind::Secret), DeValue::String(text)) if name.ends_with("_base64") => match value::decode(text) {
            Ok(bytes) => Shown::secret(&bytes),
            Err(_) => Shown::secret(format!("not base64: {text}").as_bytes()),
        },
        (Some(kind), value) if kind != Kind::Secret && is_open_value(kind, value) => Shown::open(rendered(value)),
        (_, DeValue::String(text)) => Shown::secret(text.as_bytes()),
        (_, value) => Shown::secret(rendered(value).as_bytes()),
    }
}

fn is_open_value(kind: Kind, value: &DeValue<'_>) -> bool {
    match value {
        DeValue::String(text) => is_open(kind, text),
        DeValue::Integer(_) | DeValue::Boolean(_) => true,
        DeValue::Array(list) => {
            let is_open_entry = |entry: &DeValue<'_>| entry.as_str().is_some_and(|text| is_open(kind, text));
            matches!(kind, Kind::List | Kind::Names) && list.iter().all(|entry| is_open_entry(entry.get_ref()))
        }
        _ => false,
    }
}

/// Whether a text can be shown: no URL with a query, fragment or user, no script in the place of a path or name.
fn is_open(kind: Kind, text: &str) -> bool {
    let is_bare = match kind {
        Kind::Path => text.starts_with('/') && !text.contains(char::is_whitespace),
        Kind::Url | Kind::Function => !text.contains(char::is_whitespace),
        _ => true,
    };
    let is_url = kind == Kind::Url || text.contains("://");
    is_bare && !text.contains(char::is_control) && !(is_url && text.contains(['?', '#', '@']))
}

/// A value as TOML on one line.
fn rendered(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(list) => {
            let entries: Vec<String> = list.iter().map(|entry| rendered(entry.get_ref())).collect();
            format!("[{}]", entries.join(", "))
        }
        DeValue::Table(fields) => {
            let field = |name: &str, value| format!("{} = {}", bare(name), rendered(value));
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| field(name.get_ref(), value.get_ref())).collect();
            format!("{{{}}}", fields.join(", "))
        }
    }
}

/// A key as TOML has it.
fn bare(name: &str) -> String {
    let is_bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if is_bare { name.to_owned() } else { quoted(name) }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => drop(write!(quoted, "\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The first digits of a digest: enough to tell two from each other.
fn short_digest(bytes: &[u8]) -> String {
    let digest = Sha256Digest::of(bytes).to_string();
    format!("sha256:{}", &digest[..12])
}
