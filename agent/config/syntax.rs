//! Parses the text past every syntax error: each is reported with its remedy, and the rest is read.
//!
//! The TOML parser recovers from most errors by itself, but drops everything after a key without `=` and puts the keys
//! below an unclosed header into the wrong table. Both are repaired in a copy of the text, which is then parsed again.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Position, Quoted, Report, label};
use super::schema::{self, Key, Kind, Shape, Table};
use super::tree::{self, Fields, Tree};

/// How often the text is repaired and parsed again. One pass finds nearly all errors that can be repaired.
const PASSES: usize = 8;

/// A syntax error, in the bytes of the original text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    start: usize,
    end: usize,
    /// The parser's words.
    message: String,
}

impl SyntaxError {
    /// Whether the error lies in the span or at its edge.
    pub(super) fn touches(&self, span: &Range<usize>) -> bool {
        self.start <= span.end && self.end >= span.start
    }

    /// Whether a key lacks its `=`: the parser drops the rest of the text.
    fn lacks_equals(&self) -> bool {
        self.message.starts_with("key with no value") || self.message.starts_with("missing value for key")
    }

    /// The closing brackets that a header lacks.
    fn lacks_brackets(&self) -> Option<&'static str> {
        let unclosed = self.message.starts_with("unclosed table") || self.message.starts_with("unclosed array table");
        unclosed.then_some(if self.message.ends_with("`]]`") { "]]" } else { "]" })
    }

    /// Whether the error concerns this entry of a list, not the list around it.
    fn is_value_of(&self, entry: &Range<usize>) -> bool {
        let about_the_list = ["missing comma", "unclosed", "unexpected `=`", "extra comma"];
        self.touches(entry) && !about_the_list.iter().any(|start| self.message.starts_with(start))
    }
}

/// Parses a layer of the report; its syntax errors are recorded there.
pub(super) fn parse(report: &mut Report, layer: usize) -> Fields {
    let text = report.text(layer).to_owned();
    let mut repairs = Repairs::default();
    let mut errors: Vec<SyntaxError> = Vec::new();
    for pass in 0.. {
        let copy = repairs.apply(&text);
        let (tree, found) = DeTable::parse_recoverable(&copy.text);
        // Repaired errors are kept, because the parser does not find them again; it finds all others in every pass.
        errors.retain(|error| error.lacks_equals() || error.lacks_brackets().is_some());
        errors.extend(found.iter().map(|error| {
            let span = error.span().unwrap_or_default();
            let (start, end) = (copy.original(span.start), copy.original(span.end));
            SyntaxError { start, end: end.max(start), message: error.message().to_owned() }
        }));
        errors.sort_by_key(|error| error.start);
        errors.dedup();
        let changed = errors.iter().filter(|error| repairs.add(&text, error)).count() > 0;
        if changed && pass + 1 < PASSES {
            continue;
        }
        let root = Position { layer, offset: 0 };
        let original = |offset| copy.original(offset);
        let is_broken = |span| {
            let span = copy.original_span(span);
            errors.iter().any(|error| error.touches(&span))
        };
        let fields = tree::fields(tree.get_ref(), root, &Tree { layer, original: &original, is_broken: &is_broken });
        let mut leaves = Vec::new();
        collect(tree.get_ref(), Some(&schema::root::TABLE), &copy, &mut leaves);
        explain(report, layer, &text, &errors, &leaves);
        return fields;
    }
    unreachable!("the last pass returns")
}

/// The changes to make in a copy of the text before it is parsed.
#[derive(Default)]
struct Repairs {
    /// Lines to blank out.
    blanked: HashSet<Range<usize>>,
    /// Brackets to insert, by their offset.
    inserted: BTreeSet<(usize, &'static str)>,
}

impl Repairs {
    /// Adds the error's repair; false if it has none or a known one.
    fn add(&mut self, text: &str, error: &SyntaxError) -> bool {
        if error.lacks_equals() {
            self.blanked.insert(line_of(text, error.start))
        } else {
            error.lacks_brackets().is_some_and(|brackets| self.inserted.insert((error.start, brackets)))
        }
    }

    fn apply(&self, text: &str) -> RepairedText {
        let mut blanked = text.to_owned();
        for line in &self.blanked {
            // One blank per byte: all other bytes keep their offsets.
            let blanks = " ".repeat(line.len());
            blanked.replace_range(line.clone(), &blanks);
        }
        let (mut repaired, mut shifts, mut done) = (String::with_capacity(text.len()), Vec::new(), 0);
        for &(at, brackets) in &self.inserted {
            repaired.push_str(&blanked[done..at]);
            shifts.push((repaired.len(), brackets.len()));
            repaired.push_str(brackets);
            done = at;
        }
        repaired.push_str(&blanked[done..]);
        RepairedText { text: repaired, shifts }
    }
}

/// A repaired copy of a text.
struct RepairedText {
    text: String,
    /// The offset in the copy and the length of each insertion.
    shifts: Vec<(usize, usize)>,
}

impl RepairedText {
    /// Maps an offset in the copy to the original text.
    fn original(&self, offset: usize) -> usize {
        let shift = |&(at, length): &(usize, usize)| offset.saturating_sub(at).min(length);
        offset - self.shifts.iter().map(shift).sum::<usize>()
    }

    fn original_span(&self, span: Range<usize>) -> Range<usize> {
        self.original(span.start)..self.original(span.end)
    }
}

/// The line around a byte, without its line end.
fn line_of(text: &str, offset: usize) -> Range<usize> {
    let offset = offset.min(text.len());
    let bytes = text.as_bytes();
    let start = bytes[..offset].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let end = bytes[offset..].iter().position(|&b| b == b'\n').map_or(text.len(), |at| offset + at);
    // A `\r` alone would not be valid TOML, so it stays, before the `\n`.
    let end = if end > start && end > offset && bytes[end - 1] == b'\r' { end - 1 } else { end };
    start..end
}

/// A value, neither a table nor a list of tables, and its key if the schema has it.
struct Leaf {
    span: Range<usize>,
    table: &'static Table,
    key: Option<&'static Key>,
    /// The spans of a list's entries.
    entries: Vec<Range<usize>>,
}

fn collect(table: &DeTable<'_>, known: Option<&'static Table>, copy: &RepairedText, leaves: &mut Vec<Leaf>) {
    let span = |value: &Spanned<DeValue<'_>>| copy.original_span(value.span());
    for (name, value) in table {
        let below = known.filter(|known| known.shape == Shape::Root).and_then(|_| schema::table(name.get_ref()));
        match value.get_ref() {
            DeValue::Table(inner) => collect(inner, below, copy, leaves),
            DeValue::Array(list) if list.iter().any(|entry| entry.get_ref().is_table()) => {
                for inner in list.iter().filter_map(|entry| entry.get_ref().as_table()) {
                    collect(inner, below, copy, leaves);
                }
            }
            other => leaves.push(Leaf {
                span: span(value),
                table: known.unwrap_or(&schema::root::TABLE),
                key: known.and_then(|known| known.key(name.get_ref())),
                entries: other.as_array().map_or_else(Vec::new, |list| list.iter().map(span).collect()),
            }),
        }
    }
}

/// Reports every error, once for each value it touches.
fn explain(report: &mut Report, layer: usize, text: &str, errors: &[SyntaxError], leaves: &[Leaf]) {
    for leaf in leaves {
        let mine: Vec<&SyntaxError> = errors.iter().filter(|error| error.touches(&leaf.span)).collect();
        if mine.is_empty() {
            continue;
        }
        // An unclosed string or list swallows the lines below it.
        if text.get(leaf.span.clone()).is_some_and(|raw| raw.contains('\n')) {
            report.lost(layer, leaf.span.clone());
        }
        let entries: Vec<_> =
            leaf.entries.iter().filter(|entry| mine.iter().any(|error| error.touches(entry))).collect();
        // If all errors of a list are in its entries, each entry is reported; otherwise the list as a whole is.
        if !entries.is_empty() && mine.iter().all(|error| leaf.entries.iter().any(|entry| error.is_value_of(entry))) {
            for entry in entries {
                explain_leaf(report, layer, text, leaf, entry, mine[0]);
            }
        } else {
            let unclosed = mine.iter().find(|error| error.message.starts_with("unclosed"));
            explain_leaf(report, layer, text, leaf, &leaf.span, unclosed.unwrap_or(&mine[0]));
        }
    }
    for error in errors.iter().filter(|error| !leaves.iter().any(|leaf| error.touches(&leaf.span))) {
        // A header without brackets was repaired, so its table was read.
        if error.lacks_brackets().is_none() {
            report.lost(layer, error.start..error.end);
        }
        explain_line(report, layer, text, error);
    }
}

fn explain_leaf(report: &Report, layer: usize, text: &str, leaf: &Leaf, span: &Range<usize>, error: &SyntaxError) {
    let raw = text.get(span.clone()).unwrap_or("").trim();
    // For a secret only the parser's message is shown.
    let open = leaf.key.filter(|key| key.kind != Kind::Secret);
    let (offset, what, instead) =
        open.and_then(|key| lacking(key, raw, leaf.span != *span, span.start, error.start)).unwrap_or_else(|| {
            let (what, instead) = remedy(&error.message, raw);
            // Where an unclosed value was meant to end is unknown; its start is certain.
            let offset = if error.message.starts_with("unclosed") { span.start } else { error.start };
            (offset, what, instead.to_owned())
        });
    let front = leaf.key.map_or_else(String::new, |key| format!("{}: ", label(leaf.table, key.name)));
    report.mistake(Position { layer, offset }, format_args!("{front}{what}"), instead);
}

/// The offset, mistake and remedy for a value that only lacks its quotes, or is missing.
fn lacking(key: &Key, raw: &str, in_list: bool, start: usize, error: usize) -> Option<(usize, String, String)> {
    if raw.is_empty() {
        return Some((error, "has no value".to_owned(), format!("write {} = {}", key.name, key.example)));
    }
    if matches!(key.kind, Kind::Flag | Kind::FlagOr(_)) {
        let instead = format!("write {0} = true or {0} = false", key.name);
        return Some((start, "is neither true nor false".to_owned(), instead));
    }
    if raw.contains('\n') || raw.starts_with(['"', '\'', '[', '{']) {
        return None;
    }
    // A word processor's quotes.
    let raw = Quoted(raw.trim_matches(['”', '“', '‘', '’', '„', '«', '»']));
    let instead = match key.kind {
        _ if in_list => format!("write {raw}"),
        Kind::List | Kind::Names => format!("write {} = [{raw}]", key.name),
        _ => format!("write {} = {raw}", key.name),
    };
    Some((start, format!("{raw} lacks its quotes"), instead))
}

/// Reports an error outside of every value.
fn explain_line(report: &Report, layer: usize, text: &str, error: &SyntaxError) {
    let line = line_of(text, error.start);
    let written = &text[line.clone()];
    let indent = written.len() - written.trim_start().len();
    let name = written.trim_start().trim_start_matches('[').trim_start();
    let name = &name[..name.find(|c: char| !c.is_ascii_alphanumeric() && !"_-".contains(c)).unwrap_or(name.len())];
    let begin = Position { layer, offset: line.start + indent };
    let here = Position { layer, offset: error.start };
    let header = written.trim_start().starts_with('[');
    if let Some(brackets) = error.lacks_brackets() {
        let open = if brackets == "]]" || written.trim_start().starts_with("[[") { ("[[", "]]") } else { ("[", "]") };
        report.mistake(begin, "the table's header is not closed", format_args!("write {}{name}{}", open.0, open.1));
    } else if error.lacks_equals() {
        match schema::TABLES.iter().find_map(|table| table.key(name)) {
            Some(key) => report.mistake(
                begin,
                format_args!("{name}: no \"=\" after the key"),
                format_args!("write {name} = {}", key.example),
            ),
            None => report.mistake(begin, "no \"=\" after a key", "write key = value, or put # in front of a comment"),
        };
    } else if error.message.starts_with("duplicate key") {
        let key = text.get(error.start..error.end).unwrap_or(name);
        let remedy = match schema::table(key).filter(|_| header) {
            Some(table) if matches!(table.shape, Shape::Each { .. }) => {
                format!("write {} over each of them", table.header())
            }
            Some(table) => format!("put all keys under one {}", table.header()),
            None => "keep one of the two".to_owned(),
        };
        report.mistake(here, format_args!("{} is written twice", Quoted(key)), remedy);
    } else {
        let (what, instead) = remedy(&error.message, "");
        report.mistake(here, what, instead);
    }
}

/// The parser's message in plain words, and the remedy. `raw` is the value as written; neither repeats it.
fn remedy(message: &str, raw: &str) -> (String, &'static str) {
    // The parser expects visible characters at a control character, and a quote at the line's end.
    let plain = match message.split(", expected").next().unwrap_or(message) {
        "invalid basic string" if message.contains("visible characters") => "control character",
        plain => plain,
    };
    let table: [(&str, &str, &str); 13] = [
        ("invalid multi-line basic string", "the string is not closed", "close it with \"\"\""),
        ("invalid multi-line literal string", "the string is not closed", "close it with '''"),
        ("invalid literal string", "the string is not closed", "close it with ' on the same line"),
        (
            "missing escaped value",
            "a backslash begins an escape that does not exist",
            "write \\\\ for a backslash, or use single quotes",
        ),
        ("string values must be quoted", "a string without quotes", "put the value in double quotes"),
        (
            "unexpected key or value",
            "something follows the value",
            "write one key = value on a line; \\\" within quotes",
        ),
        ("missing comma", "two entries of a list without a comma", "write a comma between the entries"),
        ("unclosed array", "the list is not closed", "write ] after its last entry"),
        ("unclosed inline table", "the table is not closed", "write } after its last key"),
        ("invalid boolean", "neither true nor false", "write true or false"),
        ("invalid date", "a date that does not exist", "put the value in double quotes"),
        ("control character", "a control character in a string", "write it as an escape, \\t or \\u001f"),
        (
            "invalid basic string",
            "the string is not closed",
            "close it with \" on the same line, or use \"\"\" for several lines",
        ),
    ];
    if let Some((_, what, instead)) = table.iter().find(|(start, ..)| plain.starts_with(start)) {
        return ((*what).to_owned(), instead);
    }
    let instead = if raw.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') {
        "put the value in double quotes"
    } else {
        "write valid TOML (https://toml.io)"
    };
    (format!("not valid TOML: {plain}"), instead)
}
