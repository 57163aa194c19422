//! `/etc/fstab`: one line per volume, marked as ours; every other byte stays.
//!
//! The mark is a mount option, `x-node-agent=VOLUME`: options that begin with `x-` are comments to mount(8) and systemd.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::atomic::Replacement;
use crate::failure::{Code, Failure, Named};

const PATH: &str = "/etc/fstab";
const MARK: &str = "x-node-agent=";

/// The line wanted for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The volume's id, for the mark.
    pub volume: &'a str,
    /// The filesystem's UUID.
    pub uuid: &'a str,
    /// Where it is mounted.
    pub mount_point: &'a Path,
    /// `xfs` or `ext4`.
    pub kind: &'a str,
    /// The mount options, without `nofail` and the mark.
    pub options: &'a [String],
}

impl Line<'_> {
    fn text(&self) -> Vec<u8> {
        let mut options: Vec<_> = self.options.iter().map(String::as_str).collect();
        if !options.contains(&"nofail") {
            options.push("nofail");
        }
        let mark = format!("{MARK}{}", self.volume);
        options.push(&mark);
        // Boot-time checks: XFS has none, ext4 after the root filesystem.
        let pass = if self.kind == "ext4" { 2 } else { 0 };
        [
            format!("UUID={} ", self.uuid).into_bytes(),
            escape(self.mount_point.as_os_str().as_bytes()),
            format!(" {} {} 0 {pass}", self.kind, options.join(",")).into_bytes(),
        ]
        .concat()
    }
}

/// Whether fstab has exactly this line, once.
pub fn has(line: &Line<'_>) -> Result<bool, Failure> {
    Ok(rewrite(&read()?, line)?.is_none())
}

/// Puts the line into fstab.
pub fn put(line: &Line<'_>) -> Result<(), Failure> {
    let Some(new) = rewrite(&read()?, line)? else { return Ok(()) };
    // A symlinked fstab stays one: what it leads to is replaced.
    let path = match fs::canonicalize(PATH) {
        Ok(path) => path,
        Err(error) if error.kind() == ErrorKind::NotFound => PATH.into(),
        Err(error) => return Err(Failure::io(PATH, error)),
    };
    let mut file = Replacement::new(&path);
    if let Ok(meta) = fs::metadata(&path) {
        file = file.mode(meta.mode() & 0o7777).owner(meta.uid(), meta.gid());
    }
    file.write(&new).named(format_args!("writing {PATH}"))
}

fn read() -> Result<Vec<u8>, Failure> {
    match fs::read(PATH) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Failure::io(format_args!("reading {PATH}"), error)),
    }
}

/// The new contents, or none if nothing has to change.
fn rewrite(old: &[u8], want: &Line<'_>) -> Result<Option<Vec<u8>>, Failure> {
    let mut new = Vec::with_capacity(old.len() + 160);
    let mut placed = false;
    for raw in old.split_inclusive(|byte| *byte == b'\n') {
        let entry = Entry::parse(raw);
        let same_place =
            entry.as_ref().is_some_and(|entry| entry.mount_point == want.mount_point.as_os_str().as_bytes());
        match entry.and_then(|entry| entry.volume) {
            // Ours for this volume, or a stale one of ours for this place.
            Some(volume) if same_place || volume == want.volume.as_bytes() => {
                if !placed {
                    new.extend(want.text());
                    new.push(b'\n');
                    placed = true;
                }
            }
            None if same_place => {
                let line = String::from_utf8_lossy(raw.trim_ascii()).into_owned();
                let text = format!("{PATH} has a line for {} already: {line}", want.mount_point.display());
                return Err(Failure::new(Code::FstabConflict, text));
            }
            _ => new.extend_from_slice(raw),
        }
    }
    if !placed {
        if !new.is_empty() && !new.ends_with(b"\n") {
            new.push(b'\n');
        }
        new.extend(want.text());
        new.push(b'\n');
    }
    Ok((new != old).then_some(new))
}

struct Entry<'a> {
    mount_point: Vec<u8>,
    /// The volume of a line with our mark.
    volume: Option<&'a [u8]>,
}

impl<'a> Entry<'a> {
    /// None for comments, blank lines and what is no entry.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields =
            line.trim_ascii().split(|byte| *byte == b' ' || *byte == b'\t').filter(|field| !field.is_empty());
        fields.next().filter(|source| !source.starts_with(b"#"))?;
        let mount_point = unescape(fields.next()?);
        let options = fields.nth(1).unwrap_or_default();
        let volume = options.split(|byte| *byte == b',').find_map(|option| option.strip_prefix(MARK.as_bytes()));
        // mount(8) reads `/data/` and `/data` as the same place.
        let trimmed = mount_point.strip_suffix(b"/").filter(|path| !path.is_empty()).unwrap_or(&mount_point);
        Some(Entry { mount_point: trimmed.to_vec(), volume })
    }
}

/// fstab(5): white space and backslashes in a path are written in octal.
fn escape(path: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => text.extend(format!("\\{byte:03o}").into_bytes()),
            _ => text.push(*byte),
        }
    }
    text
}

/// The reverse of [`escape`]; mountinfo escapes the same way.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut path = Vec::new();
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                path.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                path.push(*first);
                rest = tail;
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(options: &[String]) -> Line<'_> {
        Line { volume: "vol-1", uuid: "u-1", mount_point: Path::new("/my data"), kind: "xfs", options }
    }

    fn rewritten(old: &str) -> String {
        String::from_utf8(rewrite(old.as_bytes(), &line(&[])).unwrap().unwrap()).unwrap()
    }

    const OURS: &str = "UUID=u-1 /my\\040data xfs nofail,x-node-agent=vol-1 0 0\n";

    #[test]
    fn the_line_is_added_once_and_all_else_stays() {
        let old = "# comment\n\nUUID=r / ext4\tdefaults 0 1\nno newline at the end";
        let new = rewritten(old);
        assert_eq!(new, format!("{old}\n{OURS}"));
        assert_eq!(rewrite(new.as_bytes(), &line(&[])).unwrap(), None);
        assert_eq!(rewritten(""), OURS);
    }

    #[test]
    fn a_stale_line_of_ours_is_replaced_in_its_place() {
        let stale = "UUID=old /my\\040data xfs nofail,x-node-agent=vol-0 0 0\nUUID=r / ext4 defaults 0 1\n";
        assert_eq!(rewritten(stale), format!("{OURS}UUID=r / ext4 defaults 0 1\n"));
        let moved = "UUID=u-1 /elsewhere xfs nofail,x-node-agent=vol-1 0 0\n";
        assert_eq!(rewritten(moved), OURS);
    }

    #[test]
    fn a_foreign_line_for_the_mount_point_is_refused() {
        for old in ["/dev/xvdf /my\\040data xfs defaults 0 0\n", "/dev/xvdf  /my\\040data/ ext4"] {
            let failure = rewrite(old.as_bytes(), &line(&[])).unwrap_err();
            assert_eq!(failure.code, Code::FstabConflict);
        }
        assert!(rewrite(b"# /dev/xvdf /my\\040data xfs\n", &line(&[])).is_ok());
    }
}
