//! `[hooks]`.

use std::path::{Path, PathBuf};

use super::path::{self, Trailing};
use super::{source, value};
use crate::config::Scope;
use crate::config::fault;
use crate::config::model::{Hooks, Script, Source};
use crate::config::reader::{Located, TableReader, nearest};
use crate::config::report::{Location, Quoted, Reported};
use crate::config::schema::{Key, hooks as keys};
use crate::config::script::{self, Definition};
use crate::config::surroundings::{Host, Unread};

pub(super) fn read(reader: &TableReader<'_>, scope: Scope) -> Result<Hooks, Reported> {
    let script = script(reader, scope);
    let sha256 = reader.optional(&keys::SCRIPT_SHA256, value::sha256);
    let function = |key: &'static Key| reader.required(key).and_then(|given| Ok((given, given.check(function)?)));
    let (configure, health_check, drain) =
        (function(&keys::CONFIGURE), function(&keys::HEALTH_CHECK), function(&keys::DRAIN));

    // A fetched script is checked after the fetch.
    let mut checked = Ok(());
    if let Ok((_, Some(text))) = &script {
        if let Ok(Some(sha256)) = &sha256 {
            checked = value::verify(*sha256, text, "the script", &reader.location(&keys::SCRIPT_SHA256)).and(checked);
        }
        let functions = [&configure, &health_check].into_iter().flatten();
        let names: Vec<&str> = functions.clone().map(|(_, name)| name.as_str()).collect();
        if let Some(fault) = fault::of_script(text, &names, &shell_name(reader)) {
            let key = script_key(reader);
            checked = Err(reader.location(key).mistake(format_args!("the script {}", fault.what), fault.instead));
        } else {
            for (given, name) in functions {
                checked = check_defined(reader, given, name, text).and(checked);
            }
        }
    }
    checked?;
    Ok(Hooks {
        script: script?.0,
        sha256: sha256?,
        configure: configure?.1,
        health_check: health_check?.1,
        drain: drain?.1,
    })
}

/// The key of the script that is checked here.
fn script_key(reader: &TableReader<'_>) -> &'static Key {
    [&keys::SCRIPT, &keys::SCRIPT_BASE64].into_iter().find(|key| reader.has(key)).unwrap_or(&keys::SCRIPT)
}

/// The script's file as a shell word; `FILE` if the script is not a local file.
fn shell_name(reader: &TableReader<'_>) -> String {
    let plain = |path: &str| path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    match reader.text(&keys::SCRIPT) {
        Ok(Some(given)) if plain(given.value) => given.value.to_owned(),
        _ => "FILE".to_owned(),
    }
}

/// The script, and its text if that can be read now and is certain to run.
fn script(reader: &TableReader<'_>, scope: Scope) -> Result<(Script, Option<Vec<u8>>), Reported> {
    let key = reader.one_of()?;
    if key.name == keys::SCRIPT.name {
        let (path, text) = reader.required(key)?.check(|text, location| {
            let path = local(text, location)?;
            let text = match scope {
                Scope::ThisHost(host) => Some(read_script(host, &path, location)?),
                Scope::Offline => None,
            };
            Ok((path, text))
        })?;
        return Ok((Script::Path(path), text));
    }
    let inline =
        reader.optional(&keys::SCRIPT_BASE64, |text, location| not_empty(value::base64(text, location)?, location));
    if key.name == keys::SCRIPT_SOURCE.name {
        let source = reader.checked(key, remote);
        return Ok((Script::Remote { source: source?, fallback: inline? }, None));
    }
    let text = inline?.ok_or_else(|| reader.missing(key))?;
    Ok((Script::Inline(text.clone()), Some(text)))
}

/// A script's path on this host.
fn local(text: &str, location: &Location<'_>) -> Result<PathBuf, Reported> {
    if let Some(path) = text.strip_prefix("file://") {
        return Err(location.write(format_args!("{} is not a path", Quoted(text)), Quoted(path)));
    }
    if text.contains("://") {
        let shown = crate::config::model::without_secrets(text);
        let what = format_args!("{} is not a path on this host", Quoted(&shown));
        return Err(location.write(what, "script_source instead, which is fetched"));
    }
    path::absolute(text, Trailing::Refused, location)
}

fn remote(text: &str, location: &Location<'_>) -> Result<Source, Reported> {
    if let Some(path) = text.strip_prefix("file://").or(text.starts_with('/').then_some(text)) {
        let what = format_args!("{} is on this host", Quoted(text));
        return Err(location.write(what, format_args!("script = {} instead", Quoted(path))));
    }
    source::source(text, location)
}

fn read_script(host: &dyn Host, path: &Path, location: &Location<'_>) -> Result<Vec<u8>, Reported> {
    // The path came from a string.
    let shown = Quoted(path.to_str().unwrap_or_default());
    let text = host.script(path).map_err(|why| match why {
        Unread::Trouble { what, remedy } => location.mistake(format_args!("{shown} {what}"), remedy),
        Unread::NoScript { what, wanted } => location.write(format_args!("{shown} {what}"), wanted),
    })?;
    not_empty(text, location)
}

fn not_empty(text: Vec<u8>, location: &Location<'_>) -> Result<Vec<u8>, Reported> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(location.mistake("the script is empty", "write a script that defines the hooks' functions"));
    }
    Ok(text)
}

/// bash's reserved words.
const RESERVED: [&str; 22] = [
    "if", "then", "elif", "else", "fi", "time", "for", "in", "until", "while", "do", "done", "case", "esac", "coproc",
    "select", "function", "!", "{", "}", "[[", "]]",
];

/// A name that bash accepts for a function, and that a call need not quote.
fn function(text: &str, location: &Location<'_>) -> Result<String, Reported> {
    let first = text.chars().next();
    let right = first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':'))
        && !RESERVED.contains(&text);
    if right {
        return Ok(text.to_owned());
    }
    let bare = text.trim().trim_end_matches("()").trim_end();
    let what = format_args!("{} is not the name of a bash function", Quoted(text));
    if bare != text && !bare.is_empty() && bare.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(location.write(what, format_args!("\"{bare}\"")));
    }
    Err(location.write(what, "letters, digits and underscores, beginning with no digit"))
}

/// Reports a function that the script certainly lacks, at the function's name or else at the script.
fn check_defined(reader: &TableReader<'_>, given: &Located<'_, &str>, name: &str, text: &[u8]) -> Result<(), Reported> {
    if script::defines(text, name) != Definition::No {
        return Ok(());
    }
    let location = if given.written {
        given.location
    } else {
        Location { key: given.location.key, ..reader.location(script_key(reader)) }
    };
    let what = format_args!("the script does not define the function {name}");
    Err(match nearest(name, &script::functions(text)) {
        Some(right) => location
            .mistake(what, format_args!("rename its {right}, or write {} = \"{right}\"", given.location.key.name)),
        None => {
            location.mistake(what, format_args!("define {name}() {{ …; }} in it, or write another function's name"))
        }
    })
}
