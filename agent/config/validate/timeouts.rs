//! `[timeouts]`.

use super::value;
use crate::config::model::Timeouts;
use crate::config::reader::TableReader;
use crate::config::report::Reported;
use crate::config::schema::timeouts as keys;

pub(super) fn read(reader: &TableReader<'_>) -> Result<Timeouts, Reported> {
    let span = |key| reader.checked(key, value::duration);
    let (aws, volume, hooks) = (span(&keys::AWS), span(&keys::VOLUME), span(&keys::HOOKS));
    let (downloads, complete) = (span(&keys::DOWNLOADS), span(&keys::COMPLETE));
    let (drain, unmount) = (span(&keys::DRAIN), span(&keys::UNMOUNT));
    Ok(Timeouts {
        aws: aws?,
        volume: volume?,
        hooks: hooks?,
        downloads: downloads?,
        complete: complete?,
        drain: drain?,
        unmount: unmount?,
    })
}
