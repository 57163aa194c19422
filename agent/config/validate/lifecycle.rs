//! `[lifecycle]`.

use super::value;
use crate::config::model::{Lifecycle, OnFailure};
use crate::config::reader::TableReader;
use crate::config::report::Reported;
use crate::config::schema::lifecycle as keys;

/// Reads the table of a configuration with mistakes: a wrong value counts as its default, except for the two names.
pub(super) fn read_past_mistakes(reader: &TableReader<'_>) -> Option<Lifecycle> {
    let asg_name = reader.checked(&keys::ASG_NAME, value::name).ok()?;
    let hook_name = reader.checked(&keys::HOOK_NAME, value::name).ok()?;
    Some(Lifecycle {
        asg_name,
        hook_name,
        on_failure: on_failure(reader).unwrap_or(OnFailure::Hold),
        hold_for: reader.checked(&keys::HOLD_FOR, value::duration).unwrap_or_else(|_| keys::HOLD_FOR.default_span()),
        heartbeat_timeout: reader.optional(&keys::HEARTBEAT_TIMEOUT, value::duration).ok().flatten(),
        terminate_hook_name: reader.optional(&keys::TERMINATE_HOOK_NAME, value::name).ok().flatten(),
    })
}

pub(super) fn read(reader: &TableReader<'_>) -> Result<Lifecycle, Reported> {
    let asg_name = reader.checked(&keys::ASG_NAME, value::name);
    let hook_name = reader.checked(&keys::HOOK_NAME, value::name);
    let on_failure = on_failure(reader);
    let hold_for = reader.checked(&keys::HOLD_FOR, value::duration);
    let heartbeat_timeout = reader.optional(&keys::HEARTBEAT_TIMEOUT, value::duration);
    let terminate_hook_name = reader.optional(&keys::TERMINATE_HOOK_NAME, value::name);
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
