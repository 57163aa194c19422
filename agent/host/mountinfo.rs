//! The text of `/proc/self/mountinfo`.

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
    /// Where.
    pub mount_point: PathBuf,
    /// The filesystem's type.
    pub kind: String,
    /// What the mount was made from, for messages.
    pub source: String,
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
    let mount_point = unescape(fields.nth(1)?);
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    Some(Mounted {
        device: makedev(major.parse().ok()?, minor.parse().ok()?),
        mount_point: PathBuf::from(OsString::from_vec(mount_point)),
        kind: String::from_utf8_lossy(after.next()?).into_owned(),
        source: String::from_utf8_lossy(&unescape(after.next()?)).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn mountinfo_is_read_with_optional_fields_and_escapes() {
        let line = b"36 35 98:1 / /mnt/my\\040data rw,noatime shared:1 master:2 - xfs /dev/nvme1n1 rw,attr2\n";
        let [mount] = parse(line).try_into().unwrap();
        assert_eq!(mount.mount_point, Path::new("/mnt/my data"));
        assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("xfs", "/dev/nvme1n1"));
        assert_eq!(mount.device, makedev(98, 1));
        assert_eq!(parse(b"\n36 35 98:1 / /mnt\n"), []);
    }
}
