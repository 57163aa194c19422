//! Users and groups.

use nix::unistd::{Group, User};

use crate::config::Account;
use crate::failure::{Code, Failure, Named};

/// The user's id.
pub fn user(account: &Account) -> Result<u32, Failure> {
    match account {
        Account::Id(id) => Ok(*id),
        Account::Name(name) => User::from_name(name)
            .named(format_args!("looking up user {name}"))?
            .map(|user| user.uid.as_raw())
            .ok_or_else(|| Failure::new(Code::UnknownAccount, format!("user {name} does not exist on this machine"))),
    }
}

/// The group's id.
pub fn group(account: &Account) -> Result<u32, Failure> {
    match account {
        Account::Id(id) => Ok(*id),
        Account::Name(name) => Group::from_name(name)
            .named(format_args!("looking up group {name}"))?
            .map(|group| group.gid.as_raw())
            .ok_or_else(|| Failure::new(Code::UnknownAccount, format!("group {name} does not exist on this machine"))),
    }
}
