//! How the last run on this machine ended: a held node needs attention.

use super::Finding;
use crate::node::places::Places;
use crate::node::status;
use crate::node::status::report::Overall;
use crate::state::Phase;

/// One finding, if the agent has run in this boot.
pub(super) fn check(places: &Places) -> Option<Finding> {
    let name = "this node";
    let report = match status::observe(places) {
        Ok(report) => report,
        Err(failure) => return Some(Finding::failed(name, &failure)),
    };
    match report.state {
        Overall::NeverStarted => None,
        Overall::Phase(Phase::Done | Phase::Warm | Phase::Running | Phase::Leaving | Phase::Left) => {
            Some(Finding::ok(name, status::headline(&report)))
        }
        Overall::Phase(Phase::Held | Phase::Failed | Phase::Stopped) | Overall::Dead => {
            let (why, remedy) = match &report.failure {
                Some(fault) => {
                    let step = fault.step.map(|step| format!(" {step}:")).unwrap_or_default();
                    let why = fault.error.public.lines().next().unwrap_or_default();
                    (format!(";{step} {why}"), fault.error.remedy.clone())
                }
                None => (String::new(), "see what it did: node-agent status".to_owned()),
            };
            Some(Finding::attention(name, format!("{}{why}", status::headline(&report)), remedy))
        }
    }
}
