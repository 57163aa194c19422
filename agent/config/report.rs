//! Collects mistakes and knows where in which text they are.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::{self, Display};
use std::ops::Range;

use super::Text;
use super::mistake::{Mistake, Mistakes};
use super::model::without_secrets;
use super::schema::{Key, Table};

/// A byte in one of the two texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Which text: 0 the main one, 1 the override.
    pub(super) layer: usize,
    /// The byte in it.
    pub(super) offset: usize,
}

/// Proof that a mistake was recorded: whoever cannot give a value gives this, so that none is lost in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported(pub(super) ());

/// One text, and where its lines and its broken spots are.
#[derive(Debug)]
struct Layer {
    name: String,
    text: String,
    /// The byte at which each line begins.
    lines: Vec<usize>,
    /// What the parser could not read as it was meant.
    lost: Vec<Range<usize>>,
}

/// The mistakes found so far. Shared by reference: every reader may add to it.
#[derive(Debug)]
pub(super) struct Report {
    layers: Vec<Layer>,
    found: RefCell<Vec<Mistake>>,
    warnings: RefCell<Vec<Mistake>>,
}

impl Report {
    /// Over the texts of the layers, in their order.
    pub(super) fn new(texts: impl IntoIterator<Item = Text>) -> Self {
        let layers = texts.into_iter().map(|Text { name, text }| {
            let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
            Layer { name, text, lines, lost: Vec::new() }
        });
        Self { layers: layers.collect(), found: RefCell::default(), warnings: RefCell::default() }
    }

    /// The text of a layer.
    pub(super) fn text(&self, layer: usize) -> &str {
        self.layers.get(layer).map_or("", |layer| &layer.text)
    }

    /// Records a mistake.
    pub(super) fn mistake(&self, position: Position, what: impl Display, instead: impl Display) -> Reported {
        self.found.borrow_mut().push(self.about(position, what, instead));
        Reported(())
    }

    /// Records what is valid and hardly meant.
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

    /// Notes that the parser could not read these bytes of a layer as they were meant.
    pub(super) fn lost(&mut self, layer: usize, span: Range<usize>) {
        if let Some(layer) = self.layers.get_mut(layer) {
            layer.lost.push(span);
        }
    }

    /// Whether something was lost between this place, a table's header, and the next header. What is missing there may
    /// well be written, so that saying "missing" would send the reader the wrong way.
    pub(super) fn incomplete(&self, header: Position) -> bool {
        let Some(layer) = self.layers.get(header.layer) else {
            return false;
        };
        let end = layer
            .lines
            .iter()
            .copied()
            .find(|&line| line > header.offset && is_header(&layer.text[line..]))
            .unwrap_or(usize::MAX);
        layer.lost.iter().any(|span| span.start < end && span.end >= header.offset)
    }

    /// Whether something was lost that may have been a table's header.
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

    /// How a mistake at `here` refers to another place: by its line, and by its source where that is another one.
    pub(super) fn refer(&self, other: Position, here: Position) -> String {
        let (source, line, _) = self.line_and_column(other);
        if other.layer == here.layer { format!("line {line}") } else { format!("line {line} of {source}") }
    }

    fn line_and_column(&self, position: Position) -> (String, usize, usize) {
        let Some(layer) = self.layers.get(position.layer) else {
            return (String::new(), 1, 1);
        };
        let line = layer.lines.partition_point(|&line| line <= position.offset).saturating_sub(1);
        let before = &layer.text[layer.lines[line]..floor(&layer.text, position.offset)];
        // A byte order mark is no character of the first line to whoever looks at it in an editor.
        let column = before.trim_start_matches('\u{feff}').chars().count() + 1;
        (layer.name.clone(), line + 1, column)
    }
}

fn is_header(rest: &str) -> bool {
    rest.trim_start_matches([' ', '\t']).starts_with('[')
}

/// The last character boundary at or before `offset`.
fn floor(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// A key of a table and where it stands: what a check of its value needs to report a mistake.
#[derive(Debug, Clone, Copy)]
pub(super) struct Location<'a> {
    pub(super) report: &'a Report,
    pub(super) table: &'static Table,
    pub(super) key: &'static Key,
    pub(super) position: Position,
}

impl Location<'_> {
    /// Records a mistake: the table and the key are put in front of `what`.
    pub(super) fn mistake(&self, what: impl Display, instead: impl Display) -> Reported {
        self.report.mistake(self.position, format_args!("{}: {what}", self.label()), instead)
    }

    /// Records a warning in the same form.
    pub(super) fn warn(&self, what: impl Display, instead: impl Display) {
        self.report.warn(self.position, format_args!("{}: {what}", self.label()), instead);
    }

    /// Records that the value is not right and one like this is.
    pub(super) fn write(&self, what: impl Display, value: impl Display) -> Reported {
        self.mistake(what, format_args!("write {value}"))
    }

    /// `[[volume]] mount_path`, as in front of every mistake.
    pub(super) fn label(&self) -> String {
        label(self.table, self.key.name)
    }
}

/// A key with its table's header in front.
pub(super) fn label(table: &Table, key: &str) -> String {
    format!("{} {key}", table.header()).trim_start().to_owned()
}

/// A text in double quotes: shortened when it is long, so that a report stays a report, and without what may be secret
/// where it is a URL.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 100;
        let bare = if self.0.contains("://") { Cow::Owned(without_secrets(self.0)) } else { Cow::Borrowed(self.0) };
        let (shown, dots) = match bare.char_indices().nth(LONGEST) {
            Some((end, _)) => (&bare[..end], "…"),
            None => (&*bare, ""),
        };
        // Only what would break the quotes or the line: an apostrophe or an accent is shown as it is.
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
