//! A text as a tree of values, each of which remembers where it was written.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::Position;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) at: Position,
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
    pub(super) headers: Vec<Position>,
    pub(super) keys: BTreeMap<String, Field>,
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) key_at: Position,
    pub(super) value: Value,
}

/// Turns the parser's table into ours. `position` maps its spans to the original text.
pub(super) fn fields(table: &DeTable<'_>, header: Position, tree: &Tree<'_>) -> Fields {
    let keys = table.iter().map(|(key, found)| {
        let field = Field { key_at: tree.position(key.span().start), value: value(found, tree) };
        (key.get_ref().to_string(), field)
    });
    Fields { headers: vec![header], keys: keys.collect() }
}

/// What [`fields`] needs to know of the text it came from.
pub(super) struct Tree<'a> {
    pub(super) layer: usize,
    /// Maps a byte of the parsed text to the original's.
    pub(super) original: &'a dyn Fn(usize) -> usize,
    /// Whether a syntax error touches these bytes of the original.
    pub(super) is_broken: &'a dyn Fn(&Range<usize>) -> bool,
}

impl Tree<'_> {
    fn position(&self, offset: usize) -> Position {
        Position { layer: self.layer, offset: (self.original)(offset) }
    }

    /// Whether a syntax error touches the value.
    fn is_broken(&self, span: &Range<usize>) -> bool {
        let span = (self.original)(span.start)..(self.original)(span.end);
        (self.is_broken)(&span)
    }
}

fn value(found: &Spanned<DeValue<'_>>, tree: &Tree<'_>) -> Value {
    let at = tree.position(found.span().start);
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
