//! Users and groups.

use super::value::is_blank;
use crate::config::Scope;
use crate::config::model::Account;
use crate::config::reader::{Located, TableReader};
use crate::config::report::{Quoted, Reported};
use crate::config::schema::Key;
pub(super) use crate::config::surroundings::Database;
use crate::config::surroundings::Unfound;

type Read<T> = Result<T, Reported>;

/// A key's account; with [`Scope::ThisHost`] a name must exist on this host.
pub(super) fn read(reader: &TableReader<'_>, key: &'static Key, of: Database, scope: Scope) -> Read<Option<Account>> {
    reader.account(key)?.map(|given| account(&given, of, scope)).transpose()
}

/// A key's account, of a key with a default.
pub(super) fn required(reader: &TableReader<'_>, key: &'static Key, of: Database, scope: Scope) -> Read<Account> {
    read(reader, key, of, scope)?.ok_or_else(|| reader.missing(key))
}

fn account(given: &Located<'_, &str>, database: Database, scope: Scope) -> Result<Account, Reported> {
    let (text, location) = (given.value, &given.location);
    let example = format!("{} = {}", location.key.name, location.key.example);
    if text.is_empty() {
        return Err(location.write("is empty", example));
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        // chown(2) reads the highest number as "leave unchanged".
        return match text.parse::<u32>() {
            Ok(id) if id != u32::MAX => Ok(Account::Id(id)),
            _ => Err(location.write(format_args!("{text} is not an id"), "a number from 0 to 4294967294, or a name")),
        };
    }
    if let Some((first, _)) = text.split_once(':') {
        let what = format_args!("{} is more than one name", Quoted(text));
        return Err(location.mistake(what, format_args!("write {}, and the group as group", Quoted(first))));
    }
    if text.contains(|c: char| c.is_control() || is_blank(c) || c == '/') {
        return Err(location.write(format_args!("{} is not the name of an account", Quoted(text)), example));
    }
    let Scope::ThisHost(host) = scope else { return Ok(Account::Name(text.to_owned())) };
    // `find` panics on a NUL, which is refused above.
    let noun = database.noun();
    match host.find(database, text) {
        Ok(()) => Ok(Account::Name(text.to_owned())),
        Err(Unfound::Absent(why)) => Err(location.mistake(
            format_args!("there is no {noun} {} on this host: it {why}", Quoted(text)),
            format_args!(
                "create the {noun} before the agent starts ({noun}add --system {}), or write its number",
                Quoted(text)
            ),
        )),
        Err(Unfound::Unclear(why)) => Err(location.mistake(
            format_args!("the {noun} {} {why}", Quoted(text)),
            format_args!("see why the name service does not answer, or write the {noun}'s number"),
        )),
    }
}
