//! The text as a tree of values, each with its position.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::Position;

pub(super) struct Value {
    pub(super) at: Position,
    pub(super) item: Item,
}

pub(super) enum Item {
    Text(String),
    /// Digits without underscores, and their radix.
    Integer(String, u32),
    Float,
    Flag(bool),
    Date,
    List(Vec<Value>),
    Table(Fields),
    /// Not valid TOML; reported already.
    Broken,
}

impl Item {
    /// The type's name, for reports.
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
#[derive(Default)]
pub(super) struct Fields {
    /// The table's headers, one for each layer that has it.
    pub(super) headers: Vec<Position>,
    pub(super) keys: BTreeMap<String, Field>,
}

pub(super) struct Field {
    pub(super) key_at: Position,
    pub(super) value: Value,
}

/// Converts the parser's table.
pub(super) fn fields(table: &DeTable<'_>, header: Position, tree: &Tree<'_>) -> Fields {
    let keys = table.iter().map(|(key, found)| {
        let field = Field { key_at: tree.position(key.span().start), value: value(found, tree) };
        (key.get_ref().to_string(), field)
    });
    Fields { headers: vec![header], keys: keys.collect() }
}

/// The origin of a parsed table.
pub(super) struct Tree<'a> {
    pub(super) layer: usize,
    /// Maps an offset in the parsed text to the original text.
    pub(super) original: &'a dyn Fn(usize) -> usize,
    /// Whether a syntax error touches these bytes of the parsed text.
    pub(super) is_broken: &'a dyn Fn(Range<usize>) -> bool,
}

impl Tree<'_> {
    fn position(&self, offset: usize) -> Position {
        Position { layer: self.layer, offset: (self.original)(offset) }
    }
}

fn value(found: &Spanned<DeValue<'_>>, tree: &Tree<'_>) -> Value {
    let at = tree.position(found.span().start);
    let item = match found.get_ref() {
        DeValue::Table(table) => Item::Table(fields(table, at, tree)),
        // The list from `[[volume]]` has the span of its first header; errors there do not belong to the list.
        DeValue::Array(list) if list.iter().any(|entry| entry.get_ref().is_table()) => {
            Item::List(list.iter().map(|entry| value(entry, tree)).collect())
        }
        _ if (tree.is_broken)(found.span()) => Item::Broken,
        DeValue::Array(list) => Item::List(list.iter().map(|entry| value(entry, tree)).collect()),
        DeValue::String(text) => Item::Text(text.to_string()),
        DeValue::Integer(digits) => Item::Integer(digits.as_str().to_owned(), digits.radix()),
        DeValue::Float(_) => Item::Float,
        DeValue::Boolean(flag) => Item::Flag(*flag),
        DeValue::Datetime(_) => Item::Date,
    };
    Value { at, item }
}
