//! A line of the log, and its forms for people and machines.

use serde::de::IntoDeserializer;
use serde::de::value::Error as Unknown;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};
use tracing::Event;
use tracing::field::{Field, Visit};

use crate::readable;

/// One thing that happened. In JSON the fields have these names; absent ones are omitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// RFC 3339, UTC, with milliseconds.
    pub time: String,
    /// The severity.
    pub level: Level,
    /// The step, as [`crate::sequence::StepName::as_str`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The id of the volume concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// What the line reports of its step.
    pub kind: Kind,
    /// How often the step has acted so far; 0 where nothing was to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// How long the step may take, from its beginning, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_ms: Option<u64>,
    /// What happened; the event's other fields follow as ` name=value`.
    pub message: String,
    /// Why the step acts, waits or has failed, without the message's counters and times: for live progress. Neither in JSON
    /// logs nor in the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The severity, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something failed.
    Error,
    /// An operator should look into it.
    Warning,
    /// Normal progress.
    Info,
    /// Requests and commands; with `-v`.
    Debug,
}

/// What a line reports of its step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// No change of its state.
    #[default]
    Note,
    /// The step observes. For live progress and followers only: not in the text, the journal or JSON.
    Begin,
    /// The step has something to do.
    Start,
    /// The step waits.
    Wait,
    /// The step is done.
    Done,
    /// The step failed.
    Failed,
    /// A line that a hook printed.
    Output,
}

impl Line {
    /// A note of this moment.
    pub fn note(level: Level, message: impl Into<String>) -> Self {
        Line {
            time: crate::time::now(),
            level,
            step: None,
            volume: None,
            kind: Kind::Note,
            attempt: None,
            allowed_ms: None,
            message: message.into(),
            why: None,
        }
    }

    pub(super) fn of(event: &Event<'_>) -> Self {
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warning,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        let mut fields = Fields { line: Line::note(level, ""), others: String::new() };
        event.record(&mut fields);
        let Fields { mut line, others } = fields;
        line.message.push_str(&others);
        // The lines of other crates need their origin.
        let target = event.metadata().target();
        if !target.starts_with(OURS) {
            line.message.insert_str(0, &format!("{target}: "));
        }
        line
    }

    /// One JSON object and a newline.
    pub(super) fn json(&self) -> String {
        let line = Line { why: None, ..self.clone() };
        serde_json::to_string(&line).map(|object| object + "\n").unwrap_or_default()
    }

    /// The line for people; of a hook's line that was rewritten in place, the last state.
    pub(super) fn readable(&self) -> Self {
        let shown = |text: &Option<String>| text.as_deref().map(|text| readable::line(text).into_owned());
        let message = match self.kind {
            Kind::Output => readable::last_state(&self.message).into(),
            _ => readable::commands(&self.message),
        };
        Line {
            time: readable::line(&self.time).into_owned(),
            step: shown(&self.step),
            volume: shown(&self.volume),
            why: self.why.as_deref().map(|why| readable::text(&readable::commands(why)).into_owned()),
            message: readable::text(&message).into_owned(),
            ..*self
        }
    }

    /// The step and the volume, for the start of a line: `attach vol-0abc: `.
    pub(super) fn place(&self) -> String {
        match (&self.step, &self.volume) {
            (None, None) => String::new(),
            (Some(one), None) | (None, Some(one)) => format!("{one}: "),
            (Some(step), Some(volume)) => format!("{step} {volume}: "),
        }
    }
}

/// Collects an event's fields.
struct Fields {
    line: Line,
    others: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "step" => self.line.step = Some(value.to_owned()),
            "volume" => self.line.volume = Some(value.to_owned()),
            "why" => self.line.why = Some(value.to_owned()),
            "kind" => {
                let kind: Result<Kind, Unknown> = Kind::deserialize(value.into_deserializer());
                self.line.kind = kind.unwrap_or_default();
            }
            _ => self.record_debug(field, &format_args!("{value}")),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "attempt" => self.line.attempt = u32::try_from(value).ok(),
            "allowed_ms" => self.line.allowed_ms = Some(value),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.line.message, "{value:?}"),
            name => write!(self.others, " {name}={value:?}"),
        };
    }
}

/// The prefix of this crate's targets.
pub(super) const OURS: &str = "node_agent";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_documented_names_in_json_and_survives_the_round_trip() {
        let line = Line {
            time: "2026-01-02T03:04:05.678Z".to_owned(),
            step: Some("health-check".to_owned()),
            volume: Some("vol-0abc".to_owned()),
            kind: Kind::Wait,
            attempt: Some(3),
            allowed_ms: Some(1_800_000),
            ..Line::note(Level::Warning, "a \"quote\"\nand a second line")
        };
        let text = line.json();
        assert_eq!(
            text,
            "{\"time\":\"2026-01-02T03:04:05.678Z\",\"level\":\"warning\",\"step\":\"health-check\",\
             \"volume\":\"vol-0abc\",\"kind\":\"wait\",\"attempt\":3,\"allowed_ms\":1800000,\
             \"message\":\"a \\\"quote\\\"\\nand a second line\"}\n"
        );
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
    }

    #[test]
    fn absent_fields_are_omitted_from_json() {
        let text = Line { time: "t".to_owned(), ..Line::note(Level::Info, "m") }.json();
        assert_eq!(text, "{\"time\":\"t\",\"level\":\"info\",\"kind\":\"note\",\"message\":\"m\"}\n");
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap().step, None);
    }
}
