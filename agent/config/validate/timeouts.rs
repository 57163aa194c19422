//! `[timeouts]`.

use super::value;
use crate::config::model::Timeouts;
use crate::config::reader::Sheet;
use crate::config::report::Reported;
use crate::config::schema::timeouts as keys;

pub(super) fn read(sheet: &Sheet<'_>) -> Result<Timeouts, Reported> {
    let (aws, volume) = (value::span_of(sheet, &keys::AWS), value::span_of(sheet, &keys::VOLUME));
    let (hooks, downloads) = (value::span_of(sheet, &keys::HOOKS), value::span_of(sheet, &keys::DOWNLOADS));
    let (complete, unmount) = (value::span_of(sheet, &keys::COMPLETE), value::span_of(sheet, &keys::UNMOUNT));
    Ok(Timeouts {
        aws: aws?,
        volume: volume?,
        hooks: hooks?,
        downloads: downloads?,
        complete: complete?,
        unmount: unmount?,
    })
}
