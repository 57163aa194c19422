//! What people and programs see of a roll: one line an event, or one JSON object, and the table of nodes on a terminal.

use std::io::Write as _;

use serde_json::{Map, Value, json};

use super::decision::End;
use crate::failure::{Code, Failure};
use crate::log::Level;
use crate::readable;
use crate::time;

/// The version of the JSON objects.
const SCHEMA: u8 = 1;

/// What an event is about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About<'a> {
    pub(crate) node: Option<&'a str>,
    pub(crate) group: Option<&'a str>,
    pub(crate) instance: Option<&'a str>,
}

/// The outlets.
#[derive(Debug)]
pub(crate) struct Report {
    run: String,
    json: bool,
    /// What was said last of a wait: said once.
    waiting: Option<String>,
    /// What was said once for the whole roll.
    said: std::collections::BTreeSet<String>,
}

impl Report {
    /// Reports of the run of this id; as JSON on the standard output where that is wanted.
    pub(crate) fn new(run: String, json: bool) -> Self {
        Report { run, json, waiting: None, said: std::collections::BTreeSet::new() }
    }

    /// Reports an event.
    pub(crate) fn event(&mut self, level: Level, event: &str, about: About<'_>, text: &str) {
        self.event_with(level, event, about, text, Map::new());
    }

    /// As [`Report::event`], with more fields for programs.
    pub(crate) fn event_with(
        &mut self,
        level: Level,
        event: &str,
        about: About<'_>,
        text: &str,
        more: Map<String, Value>,
    ) {
        self.waiting = None;
        if !self.json {
            let place = about.node.or(about.group).map(|node| format!("{node}: ")).unwrap_or_default();
            let text = format!("{place}{}", readable::line(text));
            match level {
                Level::Error => tracing::error!("{text}"),
                Level::Warning => tracing::warn!("{text}"),
                Level::Info => tracing::info!("{text}"),
                Level::Debug => tracing::debug!("{text}"),
            }
            return;
        }
        let mut object = json!({
            "schema": SCHEMA,
            "time": time::now(),
            "event": event,
            "run": self.run,
            "node": about.node,
            "group": about.group,
            "instance": about.instance,
            "level": format!("{level:?}").to_lowercase(),
            "text": text,
        });
        if let Value::Object(fields) = &mut object {
            fields.extend(more);
        }
        // A reader that has closed the pipe does not end the roll.
        let _ = writeln!(std::io::stdout(), "{object}");
    }

    /// Whether programs read the reports.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Reports a wait, once for each reason.
    pub(crate) fn wait(&mut self, about: About<'_>, why: &str) {
        let key = format!("{}: {why}", about.group.unwrap_or_default());
        if self.waiting.as_ref() != Some(&key) {
            self.event(Level::Info, "waits", about, &format!("waits: {why}"));
            self.waiting = Some(key);
        }
    }

    /// Reports something once for the whole roll.
    pub(crate) fn once(&mut self, level: Level, event: &str, about: About<'_>, text: &str) {
        let key = format!("{event} {}: {text}", about.group.unwrap_or_default());
        if self.said.insert(key) {
            self.event(level, event, about, text);
        }
    }

    /// Reports how the roll has ended to programs; people read it last of all.
    pub(crate) fn end(&mut self, result: &Result<End, Failure>) {
        if !self.json {
            return;
        }
        let (event, text, remedy, exit_code) = match result {
            Ok(End::Planned) => ("planned", super::ending(&End::Planned), None, 0),
            Ok(End::Done) => ("done", super::ending(&End::Done), None, 0),
            Ok(paused) => ("paused", super::ending(paused), None, 0),
            Err(failure) => {
                let event = match failure.code {
                    Code::RollRefused => "refused",
                    Code::AnotherRoll => "withdrawn",
                    Code::Stopped => "stopped",
                    _ => "failed",
                };
                (event, failure.to_string(), Some(failure.what_to_do().to_owned()), failure.class().exit_code())
            }
        };
        let mut more = Map::new();
        more.insert("remedy".to_owned(), json!(remedy));
        more.insert("exit_code".to_owned(), json!(exit_code));
        self.event_with(Level::Info, event, About::default(), &text, more);
    }
}
