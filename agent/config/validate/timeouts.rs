//! `[timeouts]`.

use super::value;
use crate::config::model::Timeouts;
use crate::config::reader::TableReader;
use crate::config::report::Reported;
use crate::config::schema::timeouts as keys;

pub(super) fn read(reader: &TableReader<'_>) -> Result<Timeouts, Reported> {
    let (aws, volume) = (value::span_of(reader, &keys::AWS), value::span_of(reader, &keys::VOLUME));
    let (hooks, downloads) = (value::span_of(reader, &keys::HOOKS), value::span_of(reader, &keys::DOWNLOADS));
    let (complete, unmount) = (value::span_of(reader, &keys::COMPLETE), value::span_of(reader, &keys::UNMOUNT));
    Ok(Timeouts {
        aws: aws?,
        volume: volume?,
        hooks: hooks?,
        downloads: downloads?,
        complete: complete?,
        unmount: unmount?,
    })
}
