//! Draws where time went: rows of bars on a common axis, as an SVG document.
//!
//! The document needs nothing from elsewhere: no script, no font, no style sheet. It has a light card of its own, so that it is
//! legible on any page, and one width. Text of others is made harmless and escaped in `page`, and shortened to its room; the whole of
//! it is the tooltip. No crate draws this: those for SVG write elements, which is the smaller part of it.

mod page;

use std::time::Duration;

pub use self::page::{Fill, Tone};
use self::page::{LEAST, LEFT, MARGIN, Page, RIGHT, Text, at, width};
use crate::time::rough;

/// Where the columns begin, and where the durations end.
const NAME: f64 = MARGIN;
const ABOUT: f64 = 138.0;
const TOOK: f64 = 372.0;
/// The height of a row, and of a line below its bars.
const ROW: f64 = 25.0;
const NOTE: f64 = 16.0;

/// A picture.
#[derive(Debug, Default)]
pub struct Plot {
    /// Its title.
    pub title: String,
    /// Lines below the title.
    pub notes: Vec<Note>,
    /// What the bars mean.
    pub legend: Vec<(Fill, &'static str)>,
    /// One below the other, each with an axis of its own.
    pub panels: Vec<Panel>,
}

/// Rows with a common axis.
#[derive(Debug, Default)]
pub struct Panel {
    /// What it shows, and when its axis begins.
    pub heading: String,
    /// The rows, from top to bottom.
    pub rows: Vec<Row>,
}

/// A line of bars.
#[derive(Debug, Default)]
pub struct Row {
    /// What the bars are of.
    pub name: String,
    /// Which one of several.
    pub about: String,
    /// How long it took.
    pub took: Option<Duration>,
    /// In the order of time.
    pub bars: Vec<Bar>,
    /// What has become of it, in a few words.
    pub result: String,
    /// Lines below the bars.
    pub notes: Vec<Note>,
}

/// A stretch of time.
#[derive(Clone, Debug)]
pub struct Bar {
    /// From the beginning of the axis.
    pub from: Duration,
    /// The same.
    pub to: Duration,
    /// Its meaning.
    pub fill: Fill,
    /// What it is, in a word.
    pub label: String,
    /// The whole story, for a tooltip.
    pub story: String,
}

/// A line of text.
#[derive(Clone, Debug)]
pub struct Note {
    /// How it is drawn.
    pub tone: Tone,
    /// Shortened where it has no room.
    pub text: String,
}

impl Note {
    /// A line in this tone.
    pub fn new(tone: Tone, text: impl Into<String>) -> Self {
        Note { tone, text: text.into() }
    }
}

impl Plot {
    /// The whole document.
    pub fn svg(&self) -> String {
        let mut page = Page::default();
        page.text(&Text { x: MARGIN, y: 32.0, size: 18.0, bold: true, ..Text::of(&self.title) });
        page.y = 40.0;
        for note in &self.notes {
            page.y += 18.0;
            page.note(MARGIN, 13.0, note.tone, &note.text);
        }
        for panel in &self.panels {
            panel.draw(&mut page);
        }
        page.y += 26.0;
        page.legend(&self.legend);
        page.whole(&self.title)
    }
}

impl Panel {
    fn draw(&self, page: &mut Page) {
        page.y += 32.0;
        page.text(&Text { x: MARGIN, y: page.y, size: 13.0, bold: true, ..Text::of(&self.heading) });
        page.y += 22.0;
        let longest = self.rows.iter().flat_map(|row| &row.bars).map(|bar| bar.to).max().unwrap_or_default();
        let span = longest.max(Duration::from_millis(1));
        let bottom = page.y + 8.0 + self.rows.iter().map(|row| row.height(span)).sum::<f64>();
        page.ticks(span, bottom);
        page.y += 8.0;
        for row in &self.rows {
            row.draw(page, span);
        }
    }
}

impl Row {
    fn height(&self, span: Duration) -> f64 {
        let lines = self.notes.len() + usize::from(self.result_at(span).is_none());
        let lines = f64::from(u32::try_from(lines).unwrap_or_default());
        ROW + lines * NOTE + if lines > 0.0 { 4.0 } else { 0.0 }
    }

    fn draw(&self, page: &mut Page, span: Duration) {
        let start = page.y;
        let (top, base) = (start + 4.0, start + 16.5);
        page.begin_row(&self.name, &self.about);
        page.text(&Text { x: NAME, y: base, size: 13.0, room: ABOUT - NAME - 8.0, ..Text::of(&self.name) });
        let took = self.took.map(rough).unwrap_or_default();
        let room = TOOK - ABOUT - 8.0 - width(&took, 12.0);
        page.text(&Text { x: ABOUT, y: base, size: 11.0, room, colour: Tone::Dim.colour(), ..Text::of(&self.about) });
        page.text(&Text { x: TOOK, y: base, size: 12.0, anchor: "end", ..Text::of(&took) });
        for bar in &self.bars {
            let (from, to) = (at(bar.from, span), at(bar.to, span));
            page.bar(top, from, to, bar.fill, &bar.label, &bar.story);
        }
        page.y = start + ROW - 8.0;
        let result = Text { y: base, size: 11.0, colour: Tone::Dim.colour(), ..Text::of(&self.result) };
        if let Some((x, anchor)) = self.result_at(span) {
            page.text(&Text { x, anchor, ..result });
        } else {
            page.y += NOTE;
            page.text(&Text { x: LEFT, y: page.y, ..result });
        }
        for note in &self.notes {
            page.y += NOTE;
            page.note(LEFT, 11.0, note.tone, &note.text);
        }
        page.y = start + self.height(span);
        page.end_row();
    }

    /// Where the result stands: to the right of the bars or to the left of them. None where it has no room, and has a line below.
    fn result_at(&self, span: Duration) -> Option<(f64, &'static str)> {
        let first = self.bars.iter().map(|bar| at(bar.from, span)).reduce(f64::min);
        let last = self.bars.iter().map(|bar| at(bar.to, span).max(at(bar.from, span) + LEAST)).reduce(f64::max);
        let needs = width(&self.result, 11.0) + 6.0;
        match first.zip(last) {
            None => Some((LEFT, "start")),
            _ if self.result.is_empty() => Some((LEFT, "start")),
            Some((_, last)) if last + needs <= RIGHT => Some((last + 6.0, "start")),
            Some((first, _)) if first - needs >= LEFT => Some((first - 6.0, "end")),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use roxmltree::{Document, Node};

    use super::*;

    const HOSTILE: &str =
        "</text><script>alert(\"1\")</script> & ' ]]> \u{1b}[31mred\u{0}\u{8}\u{fffe}\u{ffff}\u{202e} \n日本";

    fn bar(from: u64, to: u64, fill: Fill) -> Bar {
        let (from, to) = (Duration::from_millis(from), Duration::from_millis(to));
        Bar { from, to, fill, label: HOSTILE.to_owned(), story: HOSTILE.repeat(200) }
    }

    fn plot(rows: Vec<Row>) -> Plot {
        let notes = vec![Note::new(Tone::Plain, HOSTILE.repeat(50))];
        let panels = vec![Panel { heading: HOSTILE.to_owned(), rows }];
        Plot { title: HOSTILE.to_owned(), notes, legend: vec![(Fill::Blue, "work"); 40], panels }
    }

    fn row(name: &str, bars: Vec<Bar>) -> Row {
        let notes = vec![Note::new(Tone::Wait, HOSTILE)];
        let about = HOSTILE.repeat(9);
        Row { name: name.to_owned(), about, took: Some(Duration::MAX), bars, result: HOSTILE.to_owned(), notes }
    }

    fn number(node: Node<'_, '_>, name: &str) -> f64 {
        node.attribute(name).unwrap().parse().unwrap()
    }

    fn with_class<'a>(document: &'a Document<'_>, class: &str) -> Vec<Node<'a, 'a>> {
        document.descendants().filter(|node| node.attribute("class") == Some(class)).collect()
    }

    #[test]
    fn whatever_the_texts_the_document_is_well_formed_and_has_only_its_own_elements() {
        let rows = vec![row(HOSTILE, vec![bar(0, 10, Fill::Blue), bar(10, 10, Fill::Red)]), row("empty", Vec::new())];
        let svg = plot(rows).svg();
        let document = Document::parse(&svg).unwrap_or_else(|error| panic!("{error}\n{svg}"));
        let known = ["svg", "title", "defs", "pattern", "rect", "g", "text", "path"];
        let unknown =
            document.descendants().filter(|node| node.is_element() && !known.contains(&node.tag_name().name()));
        assert_eq!(unknown.count(), 0, "{svg}");
        assert!(svg.len() < 200_000, "{}", svg.len());
        assert!(svg.contains("日本") && !svg.contains(['\u{1b}', '\0']), "{svg}");
    }

    #[test]
    fn a_bar_is_as_long_as_its_share_of_the_time() {
        let svg =
            plot(vec![row("a", vec![bar(0, 250, Fill::Blue)]), row("b", vec![bar(500, 1_000, Fill::Teal)])]).svg();
        let document = Document::parse(&svg).unwrap();
        let bars = with_class(&document, "bar");
        let drawn: Vec<_> = bars.iter().map(|bar| (number(*bar, "x"), number(*bar, "width"))).collect();
        assert_eq!(drawn, [(386.0, 198.5), (783.0, 397.0)]);
    }

    #[test]
    fn no_text_leaves_the_picture_or_runs_into_its_neighbour() {
        let rows = [(0, 1_000), (0, 10), (990, 1_000), (400, 500)];
        let rows = rows.iter().map(|(from, to)| row(&"name".repeat(40), vec![bar(*from, *to, Fill::Blue)])).collect();
        let svg = plot(rows).svg();
        let document = Document::parse(&svg).unwrap();
        let mut lines: Vec<(i64, f64, f64)> = Vec::new();
        for text in document.descendants().filter(|node| node.has_tag_name("text")) {
            // Labels of bars lie in their bars.
            if text.has_attribute("pointer-events") {
                continue;
            }
            let words: String = text.children().filter(Node::is_text).filter_map(|node| node.text()).collect();
            let (x, wide) = (number(text, "x"), width(&words, number(text, "font-size")));
            let from = match text.attribute("text-anchor") {
                Some("end") => x - wide,
                Some("middle") => x - wide / 2.0,
                _ => x,
            };
            assert!(from >= 0.0 && from + wide <= 1_200.0, "{words}: {from} to {}", from + wide);
            let line = (number(text, "y") * 10.0).round();
            lines.push((format!("{line}").parse().unwrap(), from, from + wide));
        }
        for (line, from, to) in &lines {
            let overlaps = |other: &&(i64, f64, f64)| other.0 == *line && other.1 < to - 0.1 && *from < other.2 - 0.1;
            assert_eq!(lines.iter().filter(overlaps).count(), 1, "{line}: {from} to {to}\n{svg}");
        }
    }

    #[test]
    fn the_axis_has_a_few_round_times_whatever_the_span() {
        for millis in [0, 1, 9, 11, 999, 12_345, 3_600_001, 90_000_000, 99_000_000_000, u64::MAX] {
            let svg = plot(vec![row("a", vec![bar(0, millis, Fill::Blue)])]).svg();
            let ticks = Document::parse(&svg).unwrap().descendants().filter(|node| node.has_tag_name("path")).count();
            assert!((2..=12).contains(&ticks), "{millis}: {ticks}\n{svg}");
        }
    }
}
