//! The text of an fstab: bytes in, bytes out.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::host::octal::{escape, unescape};

/// Marks a line as ours, before the volume's id. Options that begin with `x-` are comments to mount(8) and systemd.
pub const MARK: &str = "x-node-agent=";

/// The line wanted for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The volume's id, for the mark.
    pub volume: &'a str,
    /// What is mounted: `UUID=…`, or a path.
    pub source: &'a str,
    /// Where it is mounted.
    pub mount_point: &'a Path,
    /// `xfs` or `ext4`.
    pub kind: &'a str,
    /// The mount options, without `nofail` and the mark.
    pub options: &'a [String],
    /// Whether and when the filesystem is checked at boot: 0 never, 2 after the root filesystem.
    pub pass: u8,
}

impl Line<'_> {
    fn text(&self) -> Vec<u8> {
        // A mark among the configured options would be mistaken for this line's own.
        let options = self.options.iter().map(String::as_str);
        let mut options: Vec<_> = options.filter(|option| !option.starts_with(MARK)).collect();
        if !options.contains(&"nofail") {
            options.push("nofail");
        }
        let mark = format!("{MARK}{}", self.volume);
        options.push(&mark);
        [
            escape(self.source.as_bytes()),
            b" ".to_vec(),
            escape(self.mount_point.as_os_str().as_bytes()),
            format!(" {} {} 0 {}\n", self.kind, options.join(","), self.pass).into_bytes(),
        ]
        .concat()
    }
}

/// Another tool's line for the mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub(crate) line: String,
    /// What it mounts: a path, or `UUID=…`.
    pub source: String,
}

/// The contents of a line of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ours {
    /// What it mounts.
    pub source: String,
    /// Its options, including the mark.
    pub options: Vec<String>,
    /// Whether the filesystem is checked at boot.
    pub is_checked: bool,
}

/// Our line for this volume, if there is one.
pub fn ours(text: &[u8], volume: &str) -> Option<Ours> {
    let mut entries = text.split(|byte| *byte == b'\n').filter_map(Entry::parse);
    let entry = entries.find(|entry| entry.volume == Some(volume.as_bytes()))?;
    let options = String::from_utf8_lossy(entry.options);
    let options = options.split(',').map(str::to_owned).collect();
    Some(Ours { source: entry.source(), options, is_checked: !entry.pass.iter().all(|digit| *digit == b'0') })
}

/// The text without our lines for all volumes but these, and the removed lines; none if there are no such lines.
pub fn without_others(old: &[u8], volumes: &[&str]) -> Option<(Vec<u8>, Vec<String>)> {
    let is_other = |raw: &&[u8]| {
        Entry::parse(raw)
            .and_then(|entry| entry.volume)
            .is_some_and(|volume| !volumes.iter().any(|id| id.as_bytes() == volume))
    };
    let (others, kept): (Vec<_>, Vec<_>) = old.split_inclusive(|byte| *byte == b'\n').partition(is_other);
    let others: Vec<_> = others.iter().map(|raw| String::from_utf8_lossy(raw.trim_ascii()).into_owned()).collect();
    (!others.is_empty()).then(|| (kept.concat(), others))
}

/// The new contents, or none if nothing has to change.
pub fn rewrite(old: &[u8], want: &Line<'_>) -> Result<Option<Vec<u8>>, Conflict> {
    let mut new = Vec::with_capacity(old.len() + 160);
    let mut placed = false;
    for raw in old.split_inclusive(|byte| *byte == b'\n') {
        let entry = Entry::parse(raw);
        let same_mount_point = entry.as_ref().is_some_and(|entry| entry.mount_point == want.mount_point);
        match entry.as_ref().and_then(|entry| entry.volume) {
            // Our line for this volume, or a stale one for this mount point.
            Some(volume) if same_mount_point || volume == want.volume.as_bytes() => {
                if !placed {
                    new.extend(want.text());
                    placed = true;
                }
            }
            None if same_mount_point => {
                let line = String::from_utf8_lossy(raw.trim_ascii()).into_owned();
                return Err(Conflict { line, source: entry.map(|entry| entry.source()).unwrap_or_default() });
            }
            _ => new.extend_from_slice(raw),
        }
    }
    if !placed {
        if !new.is_empty() && !new.ends_with(b"\n") {
            new.push(b'\n');
        }
        new.extend(want.text());
    }
    Ok((new != old).then_some(new))
}

struct Entry<'a> {
    source: &'a [u8],
    options: &'a [u8],
    pass: &'a [u8],
    /// A path, so that `/data`, `/data/` and `//data` are equal, as they are to mount(8).
    mount_point: PathBuf,
    /// None without our mark.
    volume: Option<&'a [u8]>,
}

impl<'a> Entry<'a> {
    /// None for comments, blank lines and malformed entries.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields =
            line.trim_ascii().split(|byte| *byte == b' ' || *byte == b'\t').filter(|field| !field.is_empty());
        let source = fields.next().filter(|source| !source.starts_with(b"#"))?;
        let mount_point = unescape(fields.next()?);
        let options = fields.nth(1).unwrap_or_default();
        let volume = options.split(|byte| *byte == b',').find_map(|option| option.strip_prefix(MARK.as_bytes()));
        let pass = fields.nth(1).unwrap_or_default();
        Some(Entry { source, options, pass, mount_point: PathBuf::from(OsString::from_vec(mount_point)), volume })
    }

    /// A path or `UUID=…`, without the quotes that tags may have.
    fn source(&self) -> String {
        String::from_utf8_lossy(&unescape(self.source)).replace('"', "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(options: &[String]) -> Line<'_> {
        Line { volume: "vol-1", source: "UUID=u-1", mount_point: Path::new("/my data"), kind: "xfs", options, pass: 0 }
    }

    fn rewritten(old: &str) -> String {
        String::from_utf8(rewrite(old.as_bytes(), &line(&[])).unwrap().unwrap()).unwrap()
    }

    const OURS: &str = "UUID=u-1 /my\\040data xfs nofail,x-node-agent=vol-1 0 0\n";

    #[test]
    fn only_our_lines_for_other_volumes_are_dropped() {
        let foreign = "# x-node-agent=vol-2 in a comment\nUUID=u /other xfs defaults 0 0\n";
        let stale = "UUID=u-2 /archive ext4 nofail,x-node-agent=vol-2 0 2";
        let old = format!("{OURS}{stale}\n{foreign}");
        let (new, dropped) = without_others(old.as_bytes(), &["vol-1"]).unwrap();
        assert_eq!(String::from_utf8(new).unwrap(), format!("{OURS}{foreign}"));
        assert_eq!(dropped, [stale]);
        assert_eq!(without_others(old.as_bytes(), &["vol-1", "vol-2"]), None);
        assert_eq!(without_others(b"", &[]), None);
    }

    #[test]
    fn the_line_is_added_once_and_all_else_stays() {
        let old = "# comment\n\nUUID=r / ext4\tdefaults 0 1\nno newline at the end";
        let new = rewritten(old);
        assert_eq!(new, format!("{old}\n{OURS}"));
        assert_eq!(rewrite(new.as_bytes(), &line(&[])).unwrap(), None);
        assert_eq!(rewritten(""), OURS);
    }

    #[test]
    fn a_mark_among_the_options_is_left_out() {
        let options = ["x-node-agent=vol-2".to_owned(), "noatime".to_owned()];
        let new = rewrite(b"", &line(&options)).unwrap().unwrap();
        assert_eq!(new, b"UUID=u-1 /my\\040data xfs noatime,nofail,x-node-agent=vol-1 0 0\n");
        assert_eq!(rewrite(&new, &line(&options)), Ok(None));
    }

    #[test]
    fn a_stale_line_of_ours_is_replaced_in_its_place() {
        let stale = "UUID=old /my\\040data xfs nofail,x-node-agent=vol-0 0 0\nUUID=r / ext4 defaults 0 1\n";
        assert_eq!(rewritten(stale), format!("{OURS}UUID=r / ext4 defaults 0 1\n"));
        // Of this volume: at another mount point, and with the pass of an earlier version.
        assert_eq!(rewritten("UUID=u-1 /elsewhere xfs nofail,x-node-agent=vol-1 0 0\n"), OURS);
        assert_eq!(rewritten("UUID=u-1 /my\\040data xfs nofail,x-node-agent=vol-1 0 2\n"), OURS);
    }

    #[test]
    fn our_own_line_is_read_with_its_source_and_options() {
        let options = ["noatime".to_owned()];
        let text = [b"UUID=r / ext4 defaults 0 1\n".to_vec(), line(&options).text()].concat();
        let ours = ours(&text, "vol-1").unwrap();
        assert_eq!(ours.source, "UUID=u-1");
        assert_eq!(ours.options, ["noatime", "nofail", "x-node-agent=vol-1"]);
        assert!(!ours.is_checked);
        let checked = Line { pass: 2, ..line(&options) }.text();
        assert!(super::ours(&checked, "vol-1").unwrap().is_checked);
        assert_eq!(super::ours(&text, "vol-2"), None);
    }

    #[test]
    fn a_foreign_line_for_the_mount_point_is_refused() {
        for place in
            ["/my\\040data", "/my\\040data/", "//my\\040data", "/my\\040data//", "/./my\\040data", "/\\155y\\040data"]
        {
            let old = format!("/dev/xvdf {place} xfs defaults 0 0\n");
            let conflict = rewrite(old.as_bytes(), &line(&[])).unwrap_err();
            assert_eq!((conflict.line.as_str(), conflict.source.as_str()), (old.trim(), "/dev/xvdf"));
        }
        assert!(rewrite(b"# /dev/xvdf /my\\040data xfs\n", &line(&[])).is_ok());
    }
}
