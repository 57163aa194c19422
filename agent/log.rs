//! The log on the standard error: text for people, JSON for machines.

use std::fmt::{self, Write as _};
use std::io::IsTerminal;
use std::time::SystemTime;

use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One line an event, for people.
    Text,
    /// One JSON object an event, for log shippers.
    Json,
}

/// Begins to log. With `verbose`, also what the agent asks and runs.
pub fn init(format: Format, verbose: bool) {
    let filter = EnvFilter::new(if verbose { "warn,node_agent=debug" } else { "error,node_agent=info" });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
        Format::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colours).event_format(Text).init();
        }
    }
}

/// `12:03:04.567 attach vol-0abc: wait: …`
struct Text;

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        // For those who draw the steps; a step that has to do something says so itself.
        if line.kind == "begin" {
            return Ok(());
        }
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        // The date is the same for hours; the journal has it.
        let time = now.get(11..23).unwrap_or(&now);
        let (colour, level) = match *event.metadata().level() {
            Level::ERROR => ("31", "error: "),
            Level::WARN => ("33", "warning: "),
            _ => ("36", ""),
        };
        let place = match (line.step.as_str(), line.volume.as_str()) {
            ("", _) => String::new(),
            (step, "") => format!("{step}: "),
            (step, volume) => format!("{step} {volume}: "),
        };
        let bar = if line.kind == "output" { "| " } else { "" };
        if to.has_ansi_escapes() {
            writeln!(to, "\x1b[2m{time}\x1b[0m \x1b[{colour}m{place}{level}\x1b[0m{bar}{}", line.message)
        } else {
            writeln!(to, "{time} {place}{level}{bar}{}", line.message)
        }
    }
}

#[derive(Default)]
struct Line {
    step: String,
    volume: String,
    message: String,
    kind: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "step" => value.clone_into(&mut self.step),
            "volume" => value.clone_into(&mut self.volume),
            "kind" => value.clone_into(&mut self.kind),
            _ => self.record_debug(field, &format_args!("{value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.message, "{value:?}");
        }
    }
}
