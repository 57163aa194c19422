//! The floor: what no program could do without. Bare commands, measured in the same run on disks of their own, and the
//! simulator's own waiting.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ec2_sim::machine::Machine;
use ec2_sim::{Latencies, VolumeId, VolumeSpec};
use nix::mount::{MsFlags, mount, umount};

use crate::Result;
use crate::config::{BUCKET, device_name, file_name};
use crate::lab::Lab;
use crate::rows::Row;

/// The options that the agent gives to this machine's mkfs (agent/host/filesystem.rs).
pub(crate) fn mkfs_options(file_system: &str) -> Result<Vec<&'static str>> {
    let printed = Command::new(format!("mkfs.{file_system}")).arg("-V").output()?;
    let printed = String::from_utf8_lossy(&[printed.stdout, printed.stderr].concat()).into_owned();
    let version = printed.split_whitespace().find_map(|word| {
        let mut numbers = word.split('.');
        Some((numbers.next()?.parse::<u32>().ok()?, numbers.next()?.parse::<u32>().ok()?))
    });
    let version = version.ok_or_else(|| format!("mkfs.{file_system} -V prints no version: {printed}"))?;
    let mut options = vec!["-q"];
    if file_system == "xfs" {
        options.push("-K");
        let since: [((u32, u32), &[&str]); 3] = [
            ((5, 10), &["-m", "bigtime=0,inobtcount=0"]),
            ((5, 19), &["-i", "nrext64=0"]),
            ((6, 10), &["-i", "exchange=0", "-n", "parent=0"]),
        ];
        options.extend(since.iter().filter(|(first, _)| version >= *first).flat_map(|(_, options)| *options));
    } else {
        options.extend(["-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"]);
        if version >= (1, 47) {
            options.extend(["-O", "^orphan_file"]);
        }
    }
    Ok(options)
}

/// Makes the row's volumes, with the filesystem that they hold already, if any.
pub(crate) fn make_volumes(lab: &Lab<'_>, row: &Row, size: u64) -> Result<Vec<VolumeId>> {
    let make = |_| -> Result<VolumeId> {
        let id = format!("vol-{:017x}", fastrand::u64(..) >> 4);
        if row.existing {
            // The simulator takes a backing file that is there as it is.
            let file = lab.sim.work_dir().join(format!("{id}.img"));
            File::create(&file)?.set_len(size)?;
            let mut mkfs = Command::new(format!("mkfs.{}", row.file_system));
            mkfs.args(mkfs_options(row.file_system)?).arg(&file).stdout(Stdio::null());
            must_succeed(mkfs.spawn()?, "mkfs")?;
        }
        Ok(lab.sim.create_volume(VolumeSpec { id: Some(id), size_bytes: size, ..VolumeSpec::default() })?)
    };
    (0..row.volumes).map(make).collect()
}

/// Removes what the volumes take of the memory.
pub(crate) fn remove_volumes(lab: &Lab<'_>, volumes: &[VolumeId]) -> Result<()> {
    for volume in volumes {
        fs::remove_file(lab.sim.volume_state(volume)?.backing_file)?;
    }
    Ok(())
}

/// How long the bare commands take on this machine, with disks like the row's: mkfs with the agent's options, or for an existing ext4
/// `e2fsck -p`, on all disks at once; beside them one curl that fetches the files, many at a time; then mount(2), one by one.
pub(crate) fn bare(lab: &Lab<'_>, machine: &Machine, row: &Row, size: u64) -> Result<Duration> {
    let volumes = make_volumes(lab, row, size)?;
    let mut devices = Vec::new();
    for (volume, letter) in volumes.iter().zip(0..) {
        lab.sim.attach(volume, &lab.other, &device_name(letter))?;
        devices.push(lab.device(volume, &lab.other)?);
    }
    let list = write_download_list(lab, row)?;
    let mut commands = Vec::new();
    for device in &devices {
        commands.extend(command(machine, row, device)?);
    }
    commands.extend(list.as_deref().map(download));

    let began = Instant::now();
    let started: Vec<Child> = commands.iter_mut().map(Command::spawn).collect::<std::io::Result<_>>()?;
    for child in started {
        must_succeed(child, "a bare command")?;
    }
    let running = began.elapsed();
    let mounting = machine.inside(|| mount_all(&devices, row.file_system))??;
    for volume in &volumes {
        lab.sim.detach(volume, &lab.other)?;
        lab.free(volume)?;
    }
    remove_volumes(lab, &volumes)?;
    Ok(running + mounting)
}

/// What makes or checks the filesystem on a device; nothing for an existing XFS.
fn command(machine: &Machine, row: &Row, device: &Path) -> Result<Option<Command>> {
    let mut command = match (row.existing, row.file_system) {
        (false, _) => {
            let mut mkfs = machine.command(format!("mkfs.{}", row.file_system));
            mkfs.args(mkfs_options(row.file_system)?);
            mkfs
        }
        (true, "ext4") => {
            let mut check = machine.command("e2fsck");
            check.arg("-p");
            check
        }
        (true, _) => return Ok(None),
    };
    command.arg(device).env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Some(command))
}

fn mount_all(devices: &[PathBuf], file_system: &str) -> nix::Result<Duration> {
    let mut mounting = Duration::ZERO;
    for device in devices {
        let began = Instant::now();
        mount(Some(device), "/mnt", Some(file_system), MsFlags::MS_NOATIME, None::<&str>)?;
        mounting += began.elapsed();
        umount("/mnt")?;
    }
    Ok(mounting)
}

/// What curl is to fetch, as a file for its option `--config`.
fn write_download_list(lab: &Lab<'_>, row: &Row) -> Result<Option<PathBuf>> {
    if row.files == 0 {
        return Ok(None);
    }
    let credentials = lab.sim.static_credentials();
    let mut list = format!(
        "silent\nfail\nparallel\nparallel-max = 16\naws-sigv4 = \"aws:amz:eu-west-1:s3\"\nuser = \"{}:{}\"\n\
         header = \"x-amz-content-sha256: UNSIGNED-PAYLOAD\"\n",
        credentials.access_key_id, credentials.secret_access_key
    );
    let folder = lab.sim.work_dir().join("fetched");
    for number in 0..row.files {
        let (name, url) = (file_name(number), lab.sim.api_url());
        let _ = write!(list, "url = \"{url}/{BUCKET}/{name}\"\noutput = \"{}/{name}\"\n", folder.display());
    }
    fs::create_dir_all(folder)?;
    let path = lab.sim.work_dir().join("downloads");
    fs::write(&path, list)?;
    Ok(Some(path))
}

fn download(list: &Path) -> Command {
    let mut curl = Command::new("curl");
    // It shows its progress even where it is told to be silent.
    curl.arg("--disable").arg("--config").arg(list).stderr(Stdio::null());
    curl
}

fn must_succeed(mut child: Child, what: &str) -> Result<()> {
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("{what}: {status}").into()) }
}

/// The floor of a boot whose volume comes free after `free`, with these bare commands: `AttachVolume` is called once and takes as long
/// as any call; the bare commands begin with the device; EC2 must say `attached`; then `CompleteLifecycleAction` is called once. No
/// other call is counted.
pub(crate) fn floor(latencies: &Latencies, free: Duration, bare: Duration) -> Duration {
    let accepted = free + latencies.api;
    (accepted + latencies.device + bare).max(accepted + latencies.attach) + latencies.api
}
