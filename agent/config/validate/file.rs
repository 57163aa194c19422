//! `[[file]]`.

use std::path::{Path, PathBuf};

use super::account::{self, Database};
use super::path::{self, Trailing};
use super::{source, value};
use crate::config::Scope;
use crate::config::model::{Contents, File};
use crate::config::reader::TableReader;
use crate::config::report::{Location, Quoted, Reported};
use crate::config::schema::file as keys;

pub(super) fn read(reader: &TableReader<'_>, scope: Scope) -> Result<File, Reported> {
    let destination = reader.checked(&keys::DESTINATION, destination);
    let contents = contents(reader);
    let sha256 = reader.optional(&keys::SHA256, value::sha256);
    let checked = match (&contents, &sha256) {
        (Ok(Contents::Inline(bytes)), Ok(Some(sha256))) => {
            value::verify(*sha256, bytes, "the contents", &reader.location(&keys::SHA256))
        }
        _ => Ok(()),
    };
    let mode = reader.checked(&keys::MODE, mode);
    let owner = account::required(reader, &keys::OWNER, Database::Users, scope);
    let group = account::required(reader, &keys::GROUP, Database::Groups, scope);
    checked?;
    Ok(File {
        destination: destination?,
        contents: contents?,
        sha256: sha256?,
        mode: mode?,
        owner: owner?,
        group: group?,
    })
}

fn contents(reader: &TableReader<'_>) -> Result<Contents, Reported> {
    let key = reader.one_of()?;
    if key.name == keys::CONTENTS.name {
        Ok(Contents::Inline(reader.required(key)?.value.as_bytes().to_vec()))
    } else if key.name == keys::CONTENTS_BASE64.name {
        reader.checked(key, value::base64).map(Contents::Inline)
    } else {
        reader.checked(key, source::source).map(Contents::Source)
    }
}

/// Reports two files with one destination, a file at a mount path, and a file below another. Reads the text again, to include
/// tables with other mistakes.
pub(super) fn check_distinct<'a>(files: impl Iterator<Item = &'a TableReader<'a>>, mounts: &value::Places<'_>) {
    let files: Vec<_> = files.filter_map(|reader| reader.text(&keys::DESTINATION).ok()?).collect();
    let given = files.iter().map(|file| (file.value, *file));
    let places = value::distinct(given, "destination", "remove one of the two, or write another destination");
    for file in &files {
        if mounts.contains_key(file.value) {
            let what = format_args!("{} is a volume's mount path", Quoted(file.value));
            file.location.mistake(what, "write a file's path below it");
        }
        let mut parents = Path::new(file.value).ancestors().skip(1).filter_map(Path::to_str);
        if let Some(parent) = parents.find_map(|parent| places.get_key_value(parent)) {
            let line = parent.1.report.refer(parent.1.position, file.location.position);
            let what = format_args!("is below {}, which is a file's destination in {line}", Quoted(parent.0));
            file.location.mistake(what, "write another destination for one of the two");
        }
    }
}

fn destination(text: &str, location: &Location<'_>) -> Result<PathBuf, Reported> {
    let path = path::absolute(text, Trailing::Refused, location)?;
    if path::is_in_kernel_filesystem(text) {
        let what = format_args!("{} is in a kernel filesystem, which stores no files", Quoted(text));
        return Err(location.mistake(what, "write a path on a disk, or set it in a hook"));
    }
    Ok(path)
}

/// Permission bits in octal digits, at most `7777`.
fn mode(text: &str, location: &Location<'_>) -> Result<u32, Reported> {
    let what = format_args!("{} is not an octal mode", Quoted(text));
    let octal = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
    if octal(text) {
        return match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(mode),
            _ => Err(location.write(format_args!("{} is more than 7777", Quoted(text)), "\"0644\"")),
        };
    }
    match text.strip_prefix("0o").filter(|digits| octal(digits) && digits.len() <= 4) {
        Some(digits) => Err(location.write(what, format_args!("\"{digits:0>4}\""))),
        None => Err(location.write(what, "\"0644\", or another mode in the digits that chmod takes")),
    }
}
