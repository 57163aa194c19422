//! The ratios as a bar plot, in SVG. Its colours are readable on light and on dark pages.

use std::fmt::Write;

use crate::results::Results;
use crate::table::short;

/// The x of the names' right ends, and of the bars' left ends.
const LEFT: f64 = 330.0;
const WIDTH: f64 = 900.0;
/// Room for the values behind the bars.
const RIGHT: f64 = 190.0;
const LINE: f64 = 22.0;
const HEAD: f64 = 44.0;

/// One bar: a ratio to the floor, and what it says behind it.
struct Bar {
    name: String,
    ratio: f64,
    label: String,
}

/// The boots, and below them the fleets.
pub(crate) fn svg(results: &Results) -> String {
    let boots = results.boots.iter().map(|boot| Bar {
        name: boot.name.clone(),
        ratio: boot.ratio.median,
        label: format!(
            "{:.2} ({} of {} ms)",
            boot.ratio.median,
            short(boot.to_continue.median),
            short(boot.floor.median)
        ),
    });
    let fleets = results.fleet.iter().map(|fleet| Bar {
        name: format!("{} agents at once", fleet.agents),
        ratio: fleet.ratio,
        label: format!("{:.2} ({} of {} s)", fleet.ratio, short(fleet.last_continue), short(fleet.floor)),
    });
    let charts = [
        ("Boots: process start to CONTINUE ÷ floor", boots.collect::<Vec<_>>()),
        ("Fleets: last CONTINUE ÷ floor of the quotas", fleets.collect()),
    ];
    let mut body = String::new();
    let mut top = 0.0;
    for (title, bars) in charts.iter().filter(|(_, bars)| !bars.is_empty()) {
        top = chart(&mut body, top, title, bars);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top}\" font-family=\"sans-serif\" \
         font-size=\"13\" role=\"img\">\n\
         <title>node-agent: times divided by their floors</title>\n\
         <style>\n\
         text {{ fill: #1f2328 }} .floor {{ stroke: #1f2328 }} .bar {{ fill: #3b82c4 }} .above {{ fill: #d9822b }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .floor {{ stroke: #e6edf3 }} }}\n\
         </style>\n{body}</svg>\n"
    )
}

/// Draws a chart whose upper edge is at `top`, and returns its lower edge.
fn chart(body: &mut String, top: f64, title: &str, bars: &[Bar]) -> f64 {
    let longest = bars.iter().map(|bar| bar.ratio).fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / longest;
    let _ = writeln!(body, "<text x=\"8\" y=\"{}\" font-weight=\"bold\">{}</text>", top + 24.0, escape(title));
    let mut y = top + HEAD;
    for bar in bars {
        let (floor, above) = (bar.ratio.min(1.0) * scale, (bar.ratio - 1.0).max(0.0) * scale);
        let baseline = y + 13.0;
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{}</text>\
             <rect class=\"bar\" x=\"{LEFT}\" y=\"{y}\" width=\"{floor:.1}\" height=\"16\"/>\
             <rect class=\"above\" x=\"{:.1}\" y=\"{y}\" width=\"{above:.1}\" height=\"16\"/>\
             <text x=\"{:.1}\" y=\"{baseline}\">{}</text>",
            LEFT - 8.0,
            escape(&bar.name),
            LEFT + floor,
            LEFT + floor + above + 6.0,
            escape(&bar.label),
        );
        y += LINE;
    }
    let x = LEFT + scale;
    let from = top + HEAD - 6.0;
    let _ = writeln!(body, "<line class=\"floor\" x1=\"{x:.1}\" y1=\"{from}\" x2=\"{x:.1}\" y2=\"{y}\"/>");
    y + 12.0
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_bars_longer_than_the_floor_have_two_parts() {
        let mut body = String::new();
        let bar = Bar { name: "a < b & \"c\"".to_owned(), ratio: 2.0, label: "2.00".to_owned() };
        chart(&mut body, 0.0, "t", &[bar]);
        assert!(body.contains("a &lt; b &amp; &quot;c&quot;"), "{body}");
        assert!(body.contains("class=\"bar\" x=\"330\" y=\"44\" width=\"190.0\""), "{body}");
        assert!(body.contains("class=\"above\" x=\"520.0\" y=\"44\" width=\"190.0\""), "{body}");
    }
}
