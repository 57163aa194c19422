//! The two texts as one tree of values, each of which remembers where it was written.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Place, Report};
use super::schema::{self, Shape, Table};
use super::syntax::{self, Slip};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) at: Place,
    pub(super) item: Item,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Text(String),
    /// Digits without underscores, and their radix.
    Integer(String, u32),
    Float,
    Flag(bool),
    Date,
    List(Vec<Value>),
    Table(Fields),
    /// Not valid TOML; that is reported already.
    Broken,
}

impl Item {
    /// What it is, for a report.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(..) | Self::Float => "a number",
            Self::Flag(_) => "a boolean",
            Self::Date => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Broken => "broken",
        }
    }
}

/// The keys of one table.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields {
    /// Where it begins, once for each layer that gives it.
    pub(super) headers: Vec<Place>,
    pub(super) keys: BTreeMap<String, Field>,
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) key_at: Place,
    pub(super) value: Value,
}

/// Parses the layers and merges them; every syntax error goes to the report.
pub(super) fn read(report: &mut Report, layers: usize) -> Fields {
    let mut merged = syntax::parse(report, 0);
    for layer in 1..layers {
        let over = syntax::parse(report, layer);
        merge_fields(&schema::root::TABLE, &mut merged, over);
    }
    merged
}

/// Turns the parser's table into ours. `place` maps its spans to the original text.
pub(super) fn fields(table: &DeTable<'_>, header: Place, tree: &Tree<'_>) -> Fields {
    let keys = table.iter().map(|(key, found)| {
        let field = Field { key_at: tree.place(key.span().start), value: value(found, tree) };
        (key.get_ref().to_string(), field)
    });
    Fields { headers: vec![header], keys: keys.collect() }
}

/// What [`fields`] needs to know of the text it came from.
pub(super) struct Tree<'a> {
    pub(super) layer: usize,
    /// Maps a byte of the parsed text to the original's.
    pub(super) original: &'a dyn Fn(usize) -> usize,
    /// The syntax errors, in the original's bytes.
    pub(super) slips: &'a [Slip],
}

impl Tree<'_> {
    fn place(&self, offset: usize) -> Place {
        Place { layer: self.layer, offset: (self.original)(offset) }
    }

    /// Whether a syntax error touches the value.
    fn is_broken(&self, span: &Range<usize>) -> bool {
        let span = (self.original)(span.start)..(self.original)(span.end);
        self.slips.iter().any(|slip| slip.touches(&span))
    }
}

fn value(found: &Spanned<DeValue<'_>>, tree: &Tree<'_>) -> Value {
    let at = tree.place(found.span().start);
    let item = match found.get_ref() {
        DeValue::Table(table) => Item::Table(fields(table, at, tree)),
        // The list that `[[volume]]` makes has the span of its first header; errors there are not the list's.
        DeValue::Array(list) if list.iter().any(|entry| entry.get_ref().is_table()) => {
            Item::List(list.iter().map(|entry| value(entry, tree)).collect())
        }
        _ if tree.is_broken(&found.span()) => Item::Broken,
        DeValue::Array(list) => Item::List(list.iter().map(|entry| value(entry, tree)).collect()),
        DeValue::String(text) => Item::Text(text.to_string()),
        DeValue::Integer(digits) => Item::Integer(digits.as_str().to_owned(), digits.radix()),
        DeValue::Float(_) => Item::Float,
        DeValue::Boolean(flag) => Item::Flag(*flag),
        DeValue::Datetime(_) => Item::Date,
    };
    Value { at, item }
}

/// Lays `over` over `main`, key by key. A key that excludes another one displaces it: an operator who overrides a
/// file's `source` with `contents` on a node means the contents.
fn merge_fields(table: &Table, main: &mut Fields, over: Fields) {
    main.headers.extend(over.headers);
    let displaced = |old: &str| over.keys.keys().any(|new| table.exclusive(old, new));
    main.keys.retain(|old, _| !displaced(old));
    for (name, field) in over.keys {
        match main.keys.get_mut(&name) {
            Some(old) => merge_value(table, &name, old, field),
            None => {
                main.keys.insert(name, field);
            }
        }
    }
}

fn merge_value(parent: &Table, name: &str, old: &mut Field, new: Field) {
    let below = if parent.shape == Shape::Root { schema::table(name) } else { None };
    match (below, &mut old.value.item, new.value.item) {
        (Some(table), Item::Table(main), Item::Table(over)) => merge_fields(table, main, over),
        (Some(table @ Table { shape: Shape::Each { by }, .. }), Item::List(main), Item::List(over)) => {
            for entry in over {
                merge_entry(table, by, main, entry);
            }
        }
        (_, old_item, item) => {
            *old_item = item;
            old.value.at = new.value.at;
            old.key_at = new.key_at;
        }
    }
}

/// Lays one `[[volume]]` or `[[file]]` over the one with the same identity, or adds it.
fn merge_entry(table: &Table, by: &str, main: &mut Vec<Value>, entry: Value) {
    let wanted = identity(&entry, by).map(str::to_owned);
    let same = main.iter_mut().find(|old| wanted.is_some() && identity(old, by) == wanted.as_deref());
    match (same, entry) {
        (Some(Value { item: Item::Table(old), .. }), Value { item: Item::Table(over), .. }) => {
            merge_fields(table, old, over);
        }
        (_, entry) => main.push(entry),
    }
}

fn identity<'v>(entry: &'v Value, by: &str) -> Option<&'v str> {
    let Item::Table(fields) = &entry.item else {
        return None;
    };
    match &fields.keys.get(by)?.value.item {
        Item::Text(text) => Some(text),
        _ => None,
    }
}
