//! `[cluster]`.

use super::value;
use crate::config::model::{Cluster, Groups};
use crate::config::reader::{TableReader, all};
use crate::config::report::{Location, Quoted, Reported};
use crate::config::schema::cluster as keys;

pub(super) fn read(reader: &TableReader<'_>) -> Result<Cluster, Reported> {
    let gate = reader.checked(&keys::GATE, value::duration_or_zero);
    let groups = groups(reader);
    Ok(Cluster { groups: groups?, gate: gate? })
}

fn groups(reader: &TableReader<'_>) -> Result<Groups, Reported> {
    if reader.one_of()?.name == keys::TAG.name {
        return reader.checked(&keys::TAG, tag);
    }
    let names = reader.list(&keys::ASG_NAMES)?;
    if names.is_empty() {
        let location = reader.location(&keys::ASG_NAMES);
        return Err(location.mistake("is empty", "write the groups' names, or leave out [cluster]"));
    }
    Ok(Groups::Named(all(names.into_iter().map(|name| name.check(value::name)))?))
}

/// The most characters of a tag's key and of its value (EC2 user guide, "Tag restrictions").
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 256;

fn tag(text: &str, location: &Location<'_>) -> Result<Groups, Reported> {
    let what = || format!("{} is not a tag", Quoted(text));
    match text.split_once('=') {
        None | Some(("", _)) => Err(location.write(what(), "KEY=VALUE, as \"stateful-cluster=kafka\"")),
        Some(_) if text.contains(char::is_control) => Err(location.mistake("holds a control character", "remove it")),
        Some((key, value)) if key.chars().count() > LONGEST_KEY || value.chars().count() > LONGEST_VALUE => {
            let most = format_args!("at most {LONGEST_KEY} characters before the = and {LONGEST_VALUE} behind it");
            Err(location.write(what(), most))
        }
        Some((key, value)) => Ok(Groups::Tagged { key: key.to_owned(), value: value.to_owned() }),
    }
}
