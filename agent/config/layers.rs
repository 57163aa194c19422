//! Merges the override into the configuration, key by key.

use super::report::Report;
use super::schema::{self, Shape, Table};
use super::syntax;
use super::tree::{Field, Fields, Item, Value};

/// Parses and merges the layers, and reports every syntax error.
pub(super) fn read(report: &mut Report, layers: usize) -> Fields {
    let mut merged = syntax::parse(report, 0);
    for layer in 1..layers {
        let over = syntax::parse(report, layer);
        merge_fields(&schema::root::TABLE, &mut merged, over);
    }
    merged
}

/// Merges `over` into `main`. A key displaces the keys that it excludes: an override with a file's `contents` replaces the
/// file's `source`.
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

/// Merges one `[[volume]]` or `[[file]]` into the one with the same identity, or adds it.
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
    let Item::Table(fields) = &entry.item else { return None };
    match &fields.keys.get(by)?.value.item {
        Item::Text(text) => Some(text),
        _ => None,
    }
}
