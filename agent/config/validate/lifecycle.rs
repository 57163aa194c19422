//! `[lifecycle]`.

use std::time::Duration;

use super::value;
use crate::config::model::{Lifecycle, OnFailure};
use crate::config::reader::TableReader;
use crate::config::report::Reported;
use crate::config::schema::lifecycle as keys;

/// Reads the table of a configuration with mistakes: a wrong value counts as its default, except for the two names.
pub(super) fn read_past_mistakes(reader: &TableReader<'_>, unwritten: &TableReader<'_>) -> Option<Lifecycle> {
    let asg_name = reader.required(&keys::ASG_NAME).and_then(|given| given.check(value::name)).ok()?;
    let hook_name = reader.required(&keys::HOOK_NAME).and_then(|given| given.check(value::name)).ok()?;
    Some(Lifecycle {
        asg_name,
        hook_name,
        on_failure: on_failure(reader).unwrap_or(OnFailure::Hold),
        hold_for: value::span_of(reader, &keys::HOLD_FOR)
            .or_else(|_| value::span_of(unwritten, &keys::HOLD_FOR))
            .ok()?,
        heartbeat_timeout: heartbeat_timeout(reader).ok().flatten(),
        terminate_hook_name: terminate_hook_name(reader).ok().flatten(),
    })
}

pub(super) fn read(reader: &TableReader<'_>) -> Result<Lifecycle, Reported> {
    let asg_name = reader.required(&keys::ASG_NAME).and_then(|given| given.check(value::name));
    let hook_name = reader.required(&keys::HOOK_NAME).and_then(|given| given.check(value::name));
    let on_failure = on_failure(reader);
    let hold_for = value::span_of(reader, &keys::HOLD_FOR);
    let heartbeat_timeout = heartbeat_timeout(reader);
    let terminate_hook_name = terminate_hook_name(reader);
    Ok(Lifecycle {
        asg_name: asg_name?,
        hook_name: hook_name?,
        on_failure: on_failure?,
        hold_for: hold_for?,
        heartbeat_timeout: heartbeat_timeout?,
        terminate_hook_name: terminate_hook_name?,
    })
}

fn on_failure(reader: &TableReader<'_>) -> Result<OnFailure, Reported> {
    reader.choice(&keys::ON_FAILURE, &[("hold", OnFailure::Hold), ("abandon", OnFailure::Abandon)])
}

fn heartbeat_timeout(reader: &TableReader<'_>) -> Result<Option<Duration>, Reported> {
    let given = reader.text(&keys::HEARTBEAT_TIMEOUT)?;
    given.map(|given| given.check(value::duration)).transpose()
}

fn terminate_hook_name(reader: &TableReader<'_>) -> Result<Option<String>, Reported> {
    let given = reader.text(&keys::TERMINATE_HOOK_NAME)?;
    given.map(|given| given.check(value::name)).transpose()
}
