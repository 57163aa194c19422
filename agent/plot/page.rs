//! The document while it is drawn: texts that fit into their room, bars, the axis, and the XML around them.

use std::fmt::Write as _;
use std::time::Duration;

use console::{measure_text_width, truncate_str};

use crate::readable;
use crate::time::rough;

const WIDTH: f64 = 1_200.0;
pub(super) const MARGIN: f64 = 20.0;
/// The bars' place.
pub(super) const LEFT: f64 = 386.0;
pub(super) const RIGHT: f64 = WIDTH - MARGIN;
const BAR: f64 = 16.0;
/// A bar that is too short to be seen is drawn this wide.
pub(super) const LEAST: f64 = 1.5;
/// The width of a character of a monospaced font, in font sizes: a text's room is known without the font.
const CELL: f64 = 0.61;
const FONT: &str = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace";
/// The longest tooltip, in characters.
const TOOLTIP: usize = 1_000;
const MOST_TICKS: u128 = 10;

const INK: &str = "#1f2933";
const DIM: &str = "#566270";
const RED: &str = "#b3261e";

/// How a text is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As text.
    Plain,
    /// As text of less weight.
    Dim,
    /// As a failure.
    Failed,
    /// As the reason of a wait.
    Wait,
}

/// How a bar is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Work.
    Blue,
    /// Work that has not ended.
    Pale,
    /// What scripts of the user do.
    Violet,
    /// What has been proven.
    Green,
    /// What others do.
    Grey,
    /// What others do, beside [`Fill::Grey`].
    Slate,
    /// Work, beside [`Fill::Blue`].
    Teal,
    /// A failure.
    Red,
    /// A wait.
    Hatched,
}

impl Tone {
    pub(super) fn colour(self) -> &'static str {
        match self {
            Tone::Plain => INK,
            Tone::Dim => DIM,
            Tone::Failed => RED,
            Tone::Wait => "#7a5200",
        }
    }
}

impl Fill {
    /// The colour, and that of a label in it.
    fn colours(self) -> (&'static str, &'static str) {
        match self {
            Fill::Blue => ("#1d5fbf", "#ffffff"),
            Fill::Pale => ("#8db4e8", INK),
            Fill::Violet => ("#6b3fa0", "#ffffff"),
            Fill::Green => ("#1a7f4b", "#ffffff"),
            Fill::Grey => ("#b8c0c9", INK),
            Fill::Slate => ("#5b6875", "#ffffff"),
            Fill::Teal => ("#14746f", "#ffffff"),
            Fill::Red => (RED, "#ffffff"),
            Fill::Hatched => ("url(#wait)", INK),
        }
    }
}

/// A text and its place.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) words: &'a str,
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) size: f64,
    pub(super) colour: &'static str,
    pub(super) anchor: &'static str,
    /// How wide it may be, where it begins at `x`.
    pub(super) room: f64,
    pub(super) bold: bool,
    /// Whether the pointer meets what lies below it.
    pub(super) is_beneath: bool,
}

impl<'a> Text<'a> {
    pub(super) fn of(words: &'a str) -> Self {
        let (x, y, size, room) = (0.0, 0.0, 12.0, f64::INFINITY);
        Text { words, x, y, size, colour: INK, anchor: "start", room, bold: false, is_beneath: false }
    }
}

/// The document while it is drawn.
#[derive(Default)]
pub(super) struct Page {
    out: String,
    /// How far down it is drawn.
    pub(super) y: f64,
}

impl Page {
    pub(super) fn text(&mut self, text: &Text<'_>) {
        let whole = readable::line(text.words);
        let room = text.room.min(RIGHT - text.x.min(RIGHT));
        // Cells are whole numbers of a few thousand at most.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked by the clamp")]
        let cells =
            if text.anchor == "start" { (room / (text.size * CELL)).clamp(0.0, 4_096.0) as usize } else { 4_096 };
        let shown = truncate_str(&whole, cells, "…");
        if cells == 0 || shown.is_empty() {
            return;
        }
        let tooltip =
            if shown == whole { String::new() } else { format!("<title>{}</title>", xml(&tooltip(text.words))) };
        let weight = if text.bold { r#" font-weight="bold""# } else { "" };
        let beneath = if text.is_beneath { r#" pointer-events="none""# } else { "" };
        let Text { x, y, size, colour, anchor, .. } = text;
        let _ = writeln!(
            self.out,
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}{beneath}>{tooltip}{}</text>"#,
            xml(&shown)
        );
    }

    /// A line in this tone, at the present height.
    pub(super) fn note(&mut self, x: f64, size: f64, tone: Tone, text: &str) {
        self.text(&Text { x, y: self.y, size, colour: tone.colour(), ..Text::of(text) });
    }

    pub(super) fn begin_row(&mut self, name: &str, about: &str) {
        let (name, about) = (readable::line(name), readable::line(about));
        let _ = writeln!(self.out, r#"<g class="row" data-name="{}" data-about="{}">"#, xml(&name), xml(&about));
    }

    pub(super) fn end_row(&mut self) {
        self.out.push_str("</g>\n");
    }

    /// A bar, with its label where that has room, and its story as the tooltip.
    pub(super) fn bar(&mut self, top: f64, from: f64, to: f64, fill: Fill, label: &str, story: &str) {
        let wide = (to - from).max(if fill == Fill::Red { 2.0 * LEAST } else { LEAST });
        let (colour, ink) = fill.colours();
        let kind = if fill == Fill::Hatched { "wait" } else { "bar" };
        let edge = if fill == Fill::Hatched { r##" stroke="#a9760c" stroke-width="0.5""## } else { "" };
        let story = xml(&tooltip(story));
        let _ = writeln!(
            self.out,
            r#"<rect class="{kind}" x="{from:.2}" y="{top:.1}" width="{wide:.2}" height="{BAR}" fill="{colour}"{edge}><title>{story}</title></rect>"#
        );
        if width(label, 11.0) + 6.0 <= wide {
            let (x, y) = (from + wide / 2.0, top + 12.0);
            self.text(&Text { x, y, size: 11.0, colour: ink, anchor: "middle", is_beneath: true, ..Text::of(label) });
        }
    }

    /// The axis, with a line down to `bottom` at each of its ticks.
    pub(super) fn ticks(&mut self, span: Duration, bottom: f64) {
        let step = step(span);
        let mut next = Some(Duration::ZERO);
        while let Some(time) = next.filter(|time| *time <= span) {
            let (x, y) = (at(time, span), self.y);
            let _ = writeln!(
                self.out,
                r##"<path d="M{x:.1},{:.1}V{bottom:.1}" stroke="#d5dae0" stroke-width="1"/>"##,
                y + 4.0
            );
            let label = if time.is_zero() { "0".to_owned() } else { rough(time) };
            // A label at the edge would leave the picture.
            if x + width(&label, 11.0) / 2.0 <= WIDTH - 2.0 {
                self.text(&Text { x, y, size: 11.0, colour: DIM, anchor: "middle", ..Text::of(&label) });
            }
            next = time.checked_add(step);
        }
    }

    pub(super) fn legend(&mut self, legend: &[(Fill, &'static str)]) {
        let mut x = MARGIN;
        for (fill, meaning) in legend {
            let needs = 20.0 + width(meaning, 12.0) + 22.0;
            if x + needs > RIGHT {
                x = MARGIN;
                self.y += 20.0;
            }
            let top = self.y - 11.0;
            let _ = writeln!(
                self.out,
                r#"<rect x="{x:.1}" y="{top:.1}" width="14" height="13" fill="{}"/>"#,
                fill.colours().0
            );
            self.text(&Text { x: x + 20.0, y: self.y, colour: DIM, ..Text::of(meaning) });
            x += needs;
        }
    }

    /// The document around what was drawn.
    pub(super) fn whole(self, title: &str) -> String {
        let height = self.y + MARGIN;
        let (wide, high) = (WIDTH - 2.0, height - 2.0);
        format!(
            r##"<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0}" viewBox="0 0 {WIDTH} {height:.0}" role="img" font-family="{FONT}">
<title>{title}</title>
<defs><pattern id="wait" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="7" height="7" fill="#fdf0d0"/><rect width="3" height="7" fill="#d9a441"/></pattern></defs>
<rect x="1" y="1" width="{wide}" height="{high:.0}" rx="10" fill="#f7f8fa" stroke="#8a94a0"/>
{drawn}</svg>
"##,
            title = xml(&readable::line(title)),
            drawn = self.out
        )
    }
}

/// Where a time lies.
pub(super) fn at(time: Duration, span: Duration) -> f64 {
    LEFT + (RIGHT - LEFT) * (time.as_secs_f64() / span.as_secs_f64()).clamp(0.0, 1.0)
}

/// The room that a text of one line needs.
pub(super) fn width(text: &str, size: f64) -> f64 {
    f64::from(u32::try_from(measure_text_width(text)).unwrap_or(u32::MAX)) * size * CELL
}

/// The distance of the axis's ticks: a round time of which the span has few.
fn step(span: Duration) -> Duration {
    const ROUND: [u64; 31] = [
        1,
        2,
        5,
        10,
        20,
        50,
        100,
        200,
        500,
        1_000,
        2_000,
        5_000,
        10_000,
        15_000,
        30_000,
        60_000,
        120_000,
        300_000,
        600_000,
        900_000,
        1_800_000,
        3_600_000,
        7_200_000,
        10_800_000,
        21_600_000,
        43_200_000,
        86_400_000,
        172_800_000,
        432_000_000,
        864_000_000,
        8_640_000_000,
    ];
    let fits = |step: &&u64| span.as_millis() / u128::from(**step) <= MOST_TICKS;
    ROUND.iter().find(fits).map_or(span / 10, |step| Duration::from_millis(*step))
}

fn tooltip(text: &str) -> String {
    let text = readable::text(text);
    truncate_str(&text, TOOLTIP, "…").into_owned()
}

/// As text or an attribute's value of XML 1.0, which knows no way to write some characters.
fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\n' | '\t' => escaped.push(char),
            '\0'..' ' | '\u{7f}'..'\u{a0}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            _ => escaped.push(char),
        }
    }
    escaped
}
