//! The findings of the checks, and their output.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;

use serde::Serialize;

use crate::failure::{Class, Failure};
use crate::readable::{self, Page};

/// The version of the JSON. It grows when a field is removed or changes its meaning, not when one is added.
const SCHEMA: u32 = 1;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// The operator has to act.
    Attention,
    /// The check could not be made.
    Unknown,
}

/// One check's result: a line.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    name: String,
    #[serde(rename = "result")]
    verdict: Verdict,
    /// Has several lines if a configuration has several mistakes.
    seen: String,
    remedy: Option<String>,
    /// Whether the configuration is wrong, which has its own exit code.
    #[serde(skip)]
    of_config: bool,
}

impl Finding {
    pub(super) fn ok(name: impl Into<String>, seen: impl Into<String>) -> Self {
        Finding { name: name.into(), verdict: Verdict::Ok, seen: seen.into(), remedy: None, of_config: false }
    }

    pub(super) fn attention(name: impl Into<String>, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding { verdict: Verdict::Attention, remedy: Some(remedy.into()), ..Finding::ok(name, seen) }
    }

    pub(super) fn unknown(name: impl Into<String>, seen: impl Into<String>) -> Self {
        Finding { verdict: Verdict::Unknown, ..Finding::ok(name, seen) }
    }

    /// A failure that a run would end with.
    pub(super) fn failed(name: impl Into<String>, failure: &Failure) -> Self {
        let of_config = failure.class() == Class::Config;
        Finding { of_config, ..Finding::attention(name, failure.to_string(), failure.what_to_do()) }
    }

    /// Replaces or adds the remedy.
    #[must_use]
    pub(super) fn advise(self, remedy: impl Into<String>) -> Self {
        Finding { remedy: Some(remedy.into()), ..self }
    }
}

/// Prints findings as they come, or as one JSON document at the end.
pub(super) struct Report {
    findings: Vec<Finding>,
    json: bool,
    colours: bool,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Report { findings: Vec::new(), json, colours }
    }

    pub(super) fn add(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            let finding = Finding { remedy: finding.remedy.as_deref().map(readable::remedy), ..finding };
            if !self.json {
                print(&line(&finding, self.colours));
            }
            self.findings.push(finding);
        }
    }

    /// Ends the output and returns the exit code: 5 for a wrong configuration, 1 if anything else needs attention.
    pub(super) fn finish(&self) -> ExitCode {
        let count = |verdict| self.findings.iter().filter(|finding| finding.verdict == verdict).count();
        let (attention, unknown) = (count(Verdict::Attention), count(Verdict::Unknown));
        if self.json {
            print(&serde_json::json!({ "schema": SCHEMA, "checks": self.findings }).to_string());
        } else {
            let verb = if attention == 1 { "needs" } else { "need" };
            print(&format!("{} ok, {attention} {verb} attention, {unknown} unknown", count(Verdict::Ok)));
        }
        match attention {
            0 => ExitCode::SUCCESS,
            _ if self.findings.iter().any(|finding| finding.of_config) => ExitCode::from(Class::Config.exit_code()),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Ignores a closed stdout: the exit code still has the result.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// `FIX   NAME: SEEN; to do: REMEDY`, and further lines indented.
fn line(finding: &Finding, colours: bool) -> String {
    let (mark, colour) = match finding.verdict {
        Verdict::Ok => ("ok ", "32"),
        Verdict::Attention => ("FIX", "1;31"),
        Verdict::Unknown => ("?  ", "33"),
    };
    let mut lines = finding.seen.lines();
    let mut page = Page::new(colours);
    page.paint(colour, mark);
    // Writing to a Page cannot fail.
    let _ = write!(page, "   {}: {}", finding.name, lines.next().unwrap_or_default());
    if let Some(remedy) = &finding.remedy {
        let _ = write!(page, "; to do: {remedy}");
    }
    for more in lines {
        let _ = write!(page, "\n      {more}");
    }
    page.into_text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_one_line_and_only_a_mistaken_configuration_has_more() {
        let fix = Finding::attention("clock", "6m behind", "set it");
        assert_eq!(line(&fix, false), "FIX   clock: 6m behind; to do: set it");
        assert_eq!(line(&Finding::ok("clock", "right"), true), "\x1b[32mok \x1b[0m   clock: right");
        let mistakes = Finding::attention("configuration", "2 mistakes\na:1:1: x\na:2:1: y", "correct them");
        let expected = "FIX   configuration: 2 mistakes; to do: correct them\n      a:1:1: x\n      a:2:1: y";
        assert_eq!(line(&mistakes, false), expected);
    }
}
