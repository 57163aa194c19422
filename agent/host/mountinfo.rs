//! Parses `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::sys::stat::makedev;

use crate::host::octal::unescape;

/// One mount of this process's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The device number.
    pub device: u64,
    /// The filesystem's directory at the mount point: `/`, except for a bind mount.
    pub root: PathBuf,
    /// The directory it is mounted at.
    pub mount_point: PathBuf,
    /// This mount's own options: `rw,noatime`.
    pub options: String,
    /// The filesystem's type.
    pub kind: String,
    /// The source given to mount(8), for messages.
    pub source: String,
    /// The filesystem's options, which all of its mounts share: `rw,attr2,inode64`.
    pub super_options: String,
    /// Mounts propagate to here from another namespace, but not back, as in the namespace that systemd makes for a service.
    pub is_slave: bool,
}

/// All mounts, in the kernel's order.
pub fn parse(text: &[u8]) -> Vec<Mounted> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// proc(5): `36 35 98:0 /root /mount/point options [optional…] - type source super-options`
fn line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let number = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = number.split_once(':')?;
    let path = |field| PathBuf::from(OsString::from_vec(unescape(field)));
    let text = |field| String::from_utf8_lossy(field).into_owned();
    let (root, mount_point, options) = (path(fields.next()?), path(fields.next()?), text(fields.next()?));
    let optional: Vec<_> = fields.by_ref().take_while(|field| *field != b"-").collect();
    Some(Mounted {
        device: makedev(major.parse().ok()?, minor.parse().ok()?),
        root,
        mount_point,
        options,
        kind: text(fields.next()?),
        source: String::from_utf8_lossy(&unescape(fields.next()?)).into_owned(),
        super_options: text(fields.next()?),
        is_slave: optional.iter().any(|field| field.starts_with(b"master:")),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn mountinfo_is_read_with_optional_fields_and_escapes() {
        let line = b"36 35 98:1 /sub /mnt/my\\040data rw,noatime shared:1 master:2 - xfs /dev/nvme1n1 rw,attr2\n";
        let [mount] = parse(line).try_into().unwrap();
        assert_eq!((mount.root.as_path(), mount.mount_point.as_path()), (Path::new("/sub"), Path::new("/mnt/my data")));
        assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("xfs", "/dev/nvme1n1"));
        assert_eq!((mount.options.as_str(), mount.super_options.as_str()), ("rw,noatime", "rw,attr2"));
        assert_eq!(mount.device, makedev(98, 1));
        assert!(mount.is_slave);
        assert!(!parse(b"36 35 98:1 / / rw shared:1 - ext4 /dev/nvme0n1p1 rw\n")[0].is_slave);
        assert_eq!(parse(b"\n36 35 98:1 / /mnt\n"), []);
    }
}
