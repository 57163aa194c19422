//! Users and groups.
//!
//! The static binary's C library, musl, reads `/etc/passwd` and `/etc/group` and nothing else. Only glibc's name service, which
//! `getent` queries, knows the accounts of a directory (LDAP, SSSD, Active Directory).

use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::unistd::{Group, User};

use super::command::{self, Query};
use crate::config::{Account, Database, Unfound};
use crate::failure::{Code, Failure};

/// The time limit of `getent` for one name: a hanging name service waits for its server.
const LIMIT: Duration = Duration::from_secs(10);
/// For this long after the machine's start, the name service that knows a missing account may not be up yet.
const EARLY: Duration = Duration::from_mins(2);
/// Between two lookups.
const PAUSE: Duration = Duration::from_secs(1);

/// The database's name in nsswitch.conf(5) and getent(1), and of its file in /etc.
fn name_of(database: Database) -> &'static str {
    match database {
        Database::Users => "passwd",
        Database::Groups => "group",
    }
}

fn find_in_file(database: Database, name: &str) -> Result<Option<u32>, nix::Error> {
    match database {
        Database::Users => User::from_name(name).map(|user| user.map(|user| user.uid.as_raw())),
        Database::Groups => Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw())),
    }
}

/// The user's id. May block for ten seconds and, on a machine that has just started, longer.
pub fn user(account: &Account) -> Result<u32, Failure> {
    id(Database::Users, account)
}

/// The group's id. Blocks like [`user`].
pub fn group(account: &Account) -> Result<u32, Failure> {
    id(Database::Groups, account)
}

fn id(database: Database, account: &Account) -> Result<u32, Failure> {
    let name = match account {
        Account::Id(id) => return Ok(*id),
        Account::Name(name) => name,
    };
    let noun = database.noun();
    find(database, name).map_err(|unfound| match unfound {
        Unfound::Absent(why) => Failure::new(Code::UnknownAccount, format!("{noun} {name} {why}")),
        Unfound::Unclear(why) => Failure::new(Code::ToolFailed, format!("{noun} {name} {why}")).remedy(format!(
            "see why the machine's name service does not answer (time getent {} {name}; systemctl status sssd), or write the \
             {noun}'s number in the configuration, then: node-agent retry",
            name_of(database)
        )),
    })
}

/// The id of the account with this name. Blocks like [`user`].
pub fn find(database: Database, name: &str) -> Result<u32, Unfound> {
    loop {
        match find_once(database, name) {
            Err(Unfound::Absent(_)) if may_appear_later(database) => thread::sleep(PAUSE),
            found => return found,
        }
    }
}

fn find_once(database: Database, name: &str) -> Result<u32, Unfound> {
    match find_in_file(database, name) {
        Ok(Some(id)) => return Ok(id),
        Ok(None) => {}
        Err(errno) => return Err(Unfound::Unclear(format!("cannot be looked up: {}", errno.desc()))),
    }
    let file = format!("/etc/{}", name_of(database));
    // getent treats every name that strtoul(3) reads as a number as an id.
    if name.starts_with('+') {
        return Err(Unfound::Absent(format!("is not in {file}")));
    }
    let began = Instant::now();
    match command::query("getent", &[name_of(database), "--", name], LIMIT) {
        Ok(Query::Ended(output)) => parse_answer(&file, name, output.status.code(), &output.stdout),
        Ok(Query::Hung) => {
            let waited = began.elapsed().as_secs();
            Err(Unfound::Unclear(format!("is not in {file}, and getent has not answered for {waited} s")))
        }
        Err(failure) if failure.code == Code::ToolMissing => {
            Err(Unfound::Absent(format!("is not in {file}, and getent is not installed")))
        }
        Err(failure) => Err(Unfound::Unclear(format!("is not in {file}, and {failure}"))),
    }
}

/// Parses getent's answer; passwd(5) and group(5) both have the id in the third field.
fn parse_answer(file: &str, name: &str, code: Option<i32>, answer: &[u8]) -> Result<u32, Unfound> {
    match code {
        Some(0) => {}
        // getent(1): a key was not found.
        Some(2) => return Err(Unfound::Absent(format!("is neither in {file} nor known to getent (exit 2)"))),
        Some(code) => return Err(Unfound::Unclear(format!("is not in {file}, and getent ended with exit {code}"))),
        None => return Err(Unfound::Unclear(format!("is not in {file}, and getent was killed"))),
    }
    let answer = String::from_utf8_lossy(answer);
    let line = answer.lines().next().unwrap_or_default();
    let fields: Vec<_> = line.split(':').collect();
    let id = fields.get(2).filter(|id| id.bytes().all(|byte| byte.is_ascii_digit())).and_then(|id| id.parse().ok());
    match (fields.first(), id) {
        // To chown(2) the highest number means "leave unchanged".
        (Some(found), Some(id)) if fields.len() >= 4 && id != u32::MAX && is_same(found, name) => Ok(id),
        _ => Err(Unfound::Unclear(format!("is not in {file}, and getent's answer is not about it: {line:?}"))),
    }
}

/// Whether two names mean the same account: directories ignore case and may append their domain.
fn is_same(found: &str, requested: &str) -> bool {
    let bare = |name: &str| name.split('@').next().unwrap_or_default().to_lowercase();
    found == requested || (bare(found) == bare(requested) && !bare(requested).is_empty())
}

/// Whether a missing account may appear soon: the machine has just started, and a service that starts with it provides accounts.
fn may_appear_later(database: Database) -> bool {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    // proc_uptime(5)
    let uptime =
        read("/proc/uptime").split('.').next().and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    uptime.is_some_and(|uptime| uptime < EARLY) && has_service_source(&read("/etc/nsswitch.conf"), database)
}

/// Whether nsswitch.conf(5) names a source of accounts that needs a running service.
fn has_service_source(nsswitch: &str, database: Database) -> bool {
    let line =
        nsswitch.lines().find_map(|line| line.trim().strip_prefix(name_of(database))?.trim_start().strip_prefix(':'));
    line.is_some_and(|sources| sources.split_whitespace().any(|source| ["sss", "ldap", "winbind"].contains(&source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_only_if_it_is_whole_and_about_the_account() {
        let of = |name: &str, code, answer: &str| parse_answer("/etc/passwd", name, code, answer.as_bytes());
        for (name, answer, id) in [
            ("kafka", "kafka:*:70001:70000:Kafka:/home/kafka:/bin/bash\n", 70_001),
            ("brokers", "brokers:*:70002:kafka,zk\n", 70_002),
            ("kafka@corp.example", "kafka:*:70001:70000::/:/bin/sh\n", 70_001),
            ("kafka", "kafka@corp.example:*:70001:70000::/:/bin/sh\n", 70_001),
            ("Kafka", "kafka:*:70001:70000::/:/bin/sh\n", 70_001),
            ("-x", "-x:*:5:5::/:/bin/sh\n", 5),
        ] {
            assert_eq!(of(name, Some(0), answer), Ok(id), "{answer}");
        }
        for answer in [
            "",
            "\n",
            "kafka",
            "kafka:*:70001",
            "kafka:*::70000::/:",
            "kafka:*:-1:0::/:",
            "kafka:*:+1:0::/:",
            "kafka:*:4294967295:0::/:",
            "kafka:*:99999999999:0::/:",
            "kafka:*:0x10:0::/:",
            "root:x:0:0:root:/root:/bin/bash",
            "warning: sssd is offline\nkafka:*:70001:70000::/:",
        ] {
            let found = of("kafka", Some(0), answer);
            assert!(
                matches!(&found, Err(Unfound::Unclear(why)) if why.contains("is not about it")),
                "{answer}: {found:?}"
            );
        }
        assert!(matches!(of("@", Some(0), "@corp:*:1:1::/:"), Err(Unfound::Unclear(_))));
        assert_eq!(
            of("kafka", Some(2), ""),
            Err(Unfound::Absent("is neither in /etc/passwd nor known to getent (exit 2)".to_owned()))
        );
        assert!(matches!(of("kafka", Some(1), ""), Err(Unfound::Unclear(why)) if why.ends_with("with exit 1")));
        assert!(matches!(of("kafka", None, ""), Err(Unfound::Unclear(why)) if why.ends_with("was killed")));
    }

    #[test]
    fn local_accounts_are_found_and_missing_ones_are_reported_with_the_sources() {
        assert_eq!(find(Database::Users, "root"), Ok(0));
        assert_eq!(find(Database::Groups, "root"), Ok(0));
        for name in ["nobody-here", "-x", "--help", "a b", "ä", "%s", "$(id)"] {
            let found = find_once(Database::Users, name);
            let expected = "is neither in /etc/passwd nor known to getent (exit 2)".to_owned();
            assert_eq!(found, Err(Unfound::Absent(expected)), "{name}");
        }
        // getent would answer with user 0.
        assert_eq!(find_once(Database::Users, "+0"), Err(Unfound::Absent("is not in /etc/passwd".to_owned())));
        assert_eq!(user(&Account::Id(7)).unwrap(), 7);
        assert_eq!(user(&Account::Name("nobody-here".to_owned())).unwrap_err().code, Code::UnknownAccount);
    }

    #[test]
    fn only_sources_with_a_service_may_know_an_account_later() {
        for (nsswitch, later) in [
            ("passwd: files systemd\ngroup: files sss\n", false),
            ("passwd:         files sss\n", true),
            ("  passwd : compat ldap [NOTFOUND=return]\n", true),
            ("passwd: files winbind", true),
            ("# passwd: files sss\npasswd_compat: sss\n", false),
            ("", false),
        ] {
            assert_eq!(has_service_source(nsswitch, Database::Users), later, "{nsswitch}");
        }
    }
}
