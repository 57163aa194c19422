//! `[[volume]]`.

use std::path::PathBuf;

use super::account::{self, Database};
use super::path::{self, Trailing};
use super::value::{self, is_blank};
use crate::config::Scope;
use crate::config::model::{FileSystemType, Format, Recursive, Volume, VolumeId};
use crate::config::reader::{TableReader, all};
use crate::config::report::{Location, Quoted, Reported};
use crate::config::schema::{EXT4, XFS, volume as keys};

pub(super) fn read(reader: &TableReader<'_>, scope: Scope) -> Result<Volume, Reported> {
    let id = reader.checked(&keys::ID, id);
    let device_name = reader.checked(&keys::DEVICE_NAME, device_name);
    let mount_path = reader.checked(&keys::MOUNT_PATH, mount_path);
    let file_system = reader.choice(&keys::FILE_SYSTEM, &[(XFS, FileSystemType::Xfs), (EXT4, FileSystemType::Ext4)]);
    let mount_options = reader
        .list(&keys::MOUNT_OPTIONS)
        .and_then(|options| all(options.into_iter().map(|option| option.check(mount_option))));
    let owner = account::read(reader, &keys::OWNER, Database::Users, scope);
    let group = account::read(reader, &keys::GROUP, Database::Groups, scope);
    let words = [("when-owner-differs", Recursive::WhenOwnerDiffers)];
    let recursive = reader.flag_or(&keys::RECURSIVE, [Recursive::AfterFormat, Recursive::Always], &words);
    let detach_on_terminate = reader.flag(&keys::DETACH_ON_TERMINATE);
    let format = reader.choice(&keys::FORMAT, &[("if-blank", Format::IfBlank), ("never", Format::Never)]);
    let install_tools = reader.flag(&keys::INSTALL_TOOLS);
    Ok(Volume {
        id: id?,
        device_name: device_name?,
        mount_path: mount_path?,
        file_system: file_system?,
        mount_options: mount_options?,
        owner: owner?,
        group: group?,
        recursive: recursive?,
        detach_on_terminate: detach_on_terminate?,
        format: format?,
        install_tools: install_tools?,
    })
}

/// Reports two volumes with one id or mount path, and returns the mount paths. Reads the text again, to include volumes with
/// other mistakes.
pub(super) fn check_distinct<'a>(readers: impl Iterator<Item = &'a TableReader<'a>> + Clone) -> value::Places<'a> {
    let ids = readers.clone().filter_map(|reader| reader.text(&keys::ID).ok()?);
    value::distinct(ids.map(|id| (id.value, id)), "id", "remove one of the two, or write the other volume's id");
    let paths = readers.filter_map(|reader| reader.text(&keys::MOUNT_PATH).ok()?);
    let paths = paths.map(|path| (path.value.trim_end_matches('/'), path));
    value::distinct(paths, "mount path", "write a path of its own for each volume")
}

fn id(text: &str, location: &Location<'_>) -> Result<VolumeId, Reported> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let quoted = Quoted(text);
    let lower = text.trim().to_lowercase();
    let guess = [lower.clone(), lower.replacen("vol", "vol-", 1), format!("vol-{lower}")];
    if let Some(right) = guess.iter().find(|guess| guess.parse::<VolumeId>().is_ok()) {
        return Err(location.write(format_args!("{quoted} is not a volume id"), format_args!("\"{right}\"")));
    }
    if text.starts_with("snap-") {
        return Err(location.write(format_args!("{quoted} is a snapshot"), "the volume's id"));
    }
    let what = format_args!("{quoted} is not a volume id");
    Err(location.write(what, format_args!("vol- and 8 or 17 hex digits, as {}", location.key.example)))
}

/// `/dev/sdf`, `/dev/sdf1`, `/dev/xvdf`, `/dev/xvdba`, `/dev/hdf` (EC2 user guide, "Device names for volumes on Amazon EC2
/// instances").
fn device_name(text: &str, location: &Location<'_>) -> Result<String, Reported> {
    let right = |name: &str| {
        let Some(tail) = ["sd", "xvd", "hd"].iter().find_map(|kind| name.strip_prefix(kind)) else { return false };
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let digits = &tail[letters..];
        (1..=2).contains(&letters) && digits.len() <= 2 && digits.bytes().all(|b| b.is_ascii_digit())
    };
    if text.strip_prefix("/dev/").is_some_and(right) {
        return Ok(text.to_owned());
    }
    let what = format_args!("{} is not a device name of EC2", Quoted(text));
    if right(text) {
        return Err(location.write(what, format_args!("\"/dev/{text}\"")));
    }
    if text.contains("nvme") {
        return Err(location.write(what, "\"/dev/sdf\"; the agent finds the NVMe name by the volume's id"));
    }
    Err(location.write(what, "\"/dev/sdf\" to \"/dev/sdp\""))
}

fn mount_path(text: &str, location: &Location<'_>) -> Result<PathBuf, Reported> {
    let path = path::absolute(text, Trailing::Trimmed, location)?;
    if path.to_str().is_some_and(path::is_system) {
        let what = format_args!("{} is a system directory, which a mount would hide", Quoted(text));
        return Err(location.write(what, "a directory for the data alone, as \"/mydata\" or \"/var/lib/kafka\""));
    }
    Ok(path)
}

/// Options with which mount(8) does not mount the whole device at this path.
const OTHER_OPERATIONS: &str = "bind rbind remount move loop offset sizelimit X-mount.subdir make-shared make-slave \
    make-private make-unbindable make-rshared make-rslave make-rprivate";

/// Options with which systemd acts on its own: formats a blank device, or mounts on first access.
const SYSTEMD_ACTIONS: [&str; 2] = ["x-systemd.makefs", "x-systemd.automount"];

fn mount_option(text: &str, location: &Location<'_>) -> Result<String, Reported> {
    if text.chars().all(is_blank) {
        return Err(location.mistake("has an empty entry", "remove it"));
    }
    let shown = Quoted(text);
    if text.contains(['"', '\'', '\\']) || text.contains(char::is_control) {
        return Err(
            location.mistake(format_args!("{shown} holds a quote, backslash or control character"), "remove it")
        );
    }
    let divider = |c: char| c == ',' || is_blank(c);
    if text.contains(divider) {
        let entries: Vec<String> = text.split(divider).filter(|e| !e.is_empty()).map(|e| format!("\"{e}\"")).collect();
        let what = format_args!("{shown} holds a comma or white space");
        return Err(match entries.as_slice() {
            [] => location.mistake(what, "remove it"),
            [one] => location.write(what, one),
            [_, _] => location.write(what, format_args!("two entries, {}", entries.join(", "))),
            _ => location.write(what, format_args!("an entry for each, {}", entries.join(", "))),
        });
    }
    let name = text.split('=').next().unwrap_or(text);
    if OTHER_OPERATIONS.split(' ').any(|other| other == name) {
        return Err(location.mistake(format_args!("{shown} does not mount the volume itself"), "remove it"));
    }
    if SYSTEMD_ACTIONS.contains(&name) {
        let what = format_args!("{shown} lets systemd act on its own, but the agent has to verify each step");
        return Err(location.mistake(what, "remove it; the agent formats and mounts the volume"));
    }
    if name == "nouuid" {
        let what = format_args!("{shown} would hide that two disks carry the same filesystem");
        return Err(location.mistake(what, "remove it; the agent adds it when needed"));
    }
    Ok(text.to_owned())
}
