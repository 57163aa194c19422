//! Collects mistakes with their positions.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::{self, Display};
use std::ops::Range;

use super::Text;
use super::mistake::{Mistake, Mistakes};
use super::model::without_secrets;
use super::schema::{Key, Table};

/// A byte in one of the two texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// 0 the main text, 1 the override.
    pub(super) layer: usize,
    /// In bytes.
    pub(super) offset: usize,
}

/// What a key or table is that this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownKeys {
    /// A mistake: this agent would refuse it.
    Mistakes,
    /// A warning: the node may have a newer agent, which knows it.
    Warnings,
}

/// Proof that a mistake was recorded: the only error of the readers and checks, so that none fails silently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported(pub(super) ());

struct Layer {
    name: String,
    text: String,
    /// The offset of each line.
    lines: Vec<usize>,
    /// The bytes that the parser could not read as intended.
    lost: Vec<Range<usize>>,
}

/// The mistakes found so far. Shared by reference: every reader may add to it.
pub(super) struct Report {
    layers: Vec<Layer>,
    /// What a key is that the schema does not declare.
    pub(super) unknown_keys: UnknownKeys,
    found: RefCell<Vec<Mistake>>,
    warnings: RefCell<Vec<Mistake>>,
}

impl Report {
    /// A report over the layers' texts.
    pub(super) fn new(texts: impl IntoIterator<Item = Text>) -> Self {
        let layers = texts.into_iter().map(|Text { name, text }| {
            let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
            Layer { name, text, lines, lost: Vec::new() }
        });
        let unknown_keys = UnknownKeys::Mistakes;
        Self { layers: layers.collect(), unknown_keys, found: RefCell::default(), warnings: RefCell::default() }
    }

    pub(super) fn text(&self, layer: usize) -> &str {
        self.layers.get(layer).map_or("", |layer| &layer.text)
    }

    /// Records a mistake.
    pub(super) fn mistake(&self, position: Position, what: impl Display, instead: impl Display) -> Reported {
        self.found.borrow_mut().push(self.about(position, what, instead));
        Reported(())
    }

    /// Records a setting that is valid but probably unintended.
    pub(super) fn warn(&self, position: Position, what: impl Display, instead: impl Display) {
        self.warnings.borrow_mut().push(self.about(position, what, instead));
    }

    fn about(&self, position: Position, what: impl Display, instead: impl Display) -> Mistake {
        let (source, line, column) = self.line_and_column(position);
        Mistake { source, line, column, what: what.to_string(), instead: instead.to_string() }
    }

    /// The warnings, in the order of the schema.
    pub(super) fn take_warnings(&self) -> Vec<Mistake> {
        self.warnings.take()
    }

    /// Records that the parser could not read these bytes of a layer as intended.
    pub(super) fn lost(&mut self, layer: usize, span: Range<usize>) {
        if let Some(layer) = self.layers.get_mut(layer) {
            layer.lost.push(span);
        }
    }

    /// Whether bytes were lost between this table's header and the next one: a key missing there may be written after all, so
    /// reporting it as missing would mislead.
    pub(super) fn incomplete(&self, header: Position) -> bool {
        let Some(layer) = self.layers.get(header.layer) else { return false };
        let is_next = |&&line: &&usize| line > header.offset && is_header(&layer.text[line..]);
        let end = layer.lines.iter().find(is_next).copied().unwrap_or(usize::MAX);
        layer.lost.iter().any(|span| span.start < end && span.end >= header.offset)
    }

    /// Whether the lost bytes may include a table's header.
    pub(super) fn lost_a_header(&self) -> bool {
        let begins = |layer: &Layer, span: &Range<usize>| {
            let first = layer.lines.partition_point(|&line| line <= span.start).saturating_sub(1);
            let mut lines = layer.lines[first..].iter().take_while(|&&line| line <= span.end);
            lines.any(|&line| is_header(&layer.text[line..]))
        };
        self.layers.iter().any(|layer| layer.lost.iter().any(|span| begins(layer, span)))
    }

    /// Every mistake, sorted.
    pub(super) fn into_mistakes(self) -> Mistakes {
        let order = |name: &str| self.layers.iter().position(|layer| layer.name == name);
        Mistakes::new(self.found.into_inner(), order)
    }

    /// How a mistake at `here` refers to `other`: by its line, and by its source if that is another one.
    pub(super) fn refer(&self, other: Position, here: Position) -> String {
        let (source, line, _) = self.line_and_column(other);
        if other.layer == here.layer { format!("line {line}") } else { format!("line {line} of {source}") }
    }

    fn line_and_column(&self, position: Position) -> (String, usize, usize) {
        let Some(layer) = self.layers.get(position.layer) else { return (String::new(), 1, 1) };
        let line = layer.lines.partition_point(|&line| line <= position.offset).saturating_sub(1);
        let before = &layer.text[layer.lines[line]..layer.text.floor_char_boundary(position.offset)];
        // Editors do not count a byte order mark as a character.
        let column = before.trim_start_matches('\u{feff}').chars().count() + 1;
        (layer.name.clone(), line + 1, column)
    }
}

fn is_header(rest: &str) -> bool {
    rest.trim_start_matches([' ', '\t']).starts_with('[')
}

/// A key and its position, for reporting a mistake in its value.
#[derive(Clone, Copy)]
pub(super) struct Location<'a> {
    pub(super) report: &'a Report,
    pub(super) table: &'static Table,
    pub(super) key: &'static Key,
    pub(super) position: Position,
}

impl Location<'_> {
    /// Records a mistake; the table and the key precede `what`.
    pub(super) fn mistake(&self, what: impl Display, instead: impl Display) -> Reported {
        self.report.mistake(self.position, format_args!("{}: {what}", label(self.table, self.key.name)), instead)
    }

    /// Records a warning in the same form.
    pub(super) fn warn(&self, what: impl Display, instead: impl Display) {
        self.report.warn(self.position, format_args!("{}: {what}", label(self.table, self.key.name)), instead);
    }

    /// Records a mistake whose remedy is to write this value.
    pub(super) fn write(&self, what: impl Display, value: impl Display) -> Reported {
        self.mistake(what, format_args!("write {value}"))
    }
}

/// A key preceded by its table's header: `[[volume]] mount_path`.
pub(super) fn label(table: &Table, key: &str) -> String {
    format!("{} {key}", table.header()).trim_start().to_owned()
}

/// Shows a text in double quotes, shortened if it is long, and without a URL's secrets.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 100;
        let bare = if self.0.contains("://") { Cow::Owned(without_secrets(self.0)) } else { Cow::Borrowed(self.0) };
        let (shown, dots) = match bare.char_indices().nth(LONGEST) {
            Some((end, _)) => (&bare[..end], "…"),
            None => (&*bare, ""),
        };
        // Escapes only what would break the quotes or the line, not apostrophes or accents.
        f.write_str("\"")?;
        for c in shown.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "{}", c.escape_debug())?,
                c => write!(f, "{c}")?,
            }
        }
        write!(f, "{dots}\"")
    }
}
