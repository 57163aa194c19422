//! `[lifecycle]`.

use super::value;
use crate::config::model::{Lifecycle, OnFailure};
use crate::config::reader::Sheet;
use crate::config::report::Reported;
use crate::config::schema::lifecycle as keys;

pub(super) fn read(sheet: &Sheet<'_>) -> Result<Lifecycle, Reported> {
    let asg_name = sheet.required(&keys::ASG_NAME).and_then(|given| given.check(value::name));
    let hook_name = sheet.required(&keys::HOOK_NAME).and_then(|given| given.check(value::name));
    let on_failure = sheet.choice(&keys::ON_FAILURE, &[("hold", OnFailure::Hold), ("abandon", OnFailure::Abandon)]);
    let hold_for = value::span_of(sheet, &keys::HOLD_FOR);
    let heartbeat_timeout = sheet
        .text(&keys::HEARTBEAT_TIMEOUT)
        .and_then(|given| given.map(|given| given.check(value::duration)).transpose());
    let terminate_hook_name = sheet
        .text(&keys::TERMINATE_HOOK_NAME)
        .and_then(|given| given.map(|given| given.check(value::name)).transpose());
    Ok(Lifecycle {
        asg_name: asg_name?,
        hook_name: hook_name?,
        on_failure: on_failure?,
        hold_for: hold_for?,
        heartbeat_timeout: heartbeat_timeout?,
        terminate_hook_name: terminate_hook_name?,
    })
}
