//! Disk images, each with the verdict that the real agent must reach: no disk that holds anything is ever taken for blank.
//!
//! The images are built in `corpus/images.rs`; a disk whose reads fail or hang is `corpus/broken.rs`.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

#[path = "corpus/broken.rs"]
mod broken;
#[path = "corpus/disk.rs"]
mod disk;
#[path = "corpus/images.rs"]
mod images;
#[path = "corpus/intent.rs"]
mod intent;
#[path = "corpus/signatures.rs"]
mod signatures;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use broken::{BrokenDisk, Fault};
use disk::{Disk, GIB, KIB, MIB};
use ec2_sim::{Latencies, Sim, VolumeId, VolumeSpec};
use images::{EXT4_MAGIC, EXT4_SUPERBLOCK, GPT_BACKUP, GPT_PRIMARY, PRECIOUS};
use nix::fcntl::OFlag;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use support::{AGENT, Instance, Outcome, World, config_with, volume_at};

/// What the agent must do with a disk image.
#[derive(Clone)]
enum Verdict {
    /// Blank: the agent formats it, and the node comes up.
    Formatted,
    /// A filesystem: the node comes up, and every byte is kept.
    Kept,
    /// Refused, with one of these codes and all of these words in the last line, any of those divided by a bar; nothing is
    /// written to the disk.
    Refused(&'static [&'static str], &'static [&'static str]),
}

use Verdict::{Formatted, Kept, Refused};

/// A disk image and the volume it is on.
struct Image {
    name: String,
    make: Box<dyn Fn(&Disk) + Send + Sync>,
    verdict: Verdict,
    file_system: &'static str,
    format: &'static str,
    /// As the simulator makes it.
    volume: VolumeSpec,
    /// The device's size, where it is not the volume's.
    device_size: Option<u64>,
    read_only: bool,
    /// Whether the verdict depends on what blkid says, so that it is tried with other versions of it.
    asks_blkid: bool,
}

impl Image {
    fn on(self, file_system: &'static str) -> Image {
        Image { file_system, ..self }
    }

    fn sized(self, size_bytes: u64) -> Image {
        Image { volume: VolumeSpec { size_bytes, ..self.volume }, ..self }
    }

    /// The verdict comes from the reads, or before anything is looked at.
    fn whatever_blkid_says(self) -> Image {
        Image { asks_blkid: false, ..self }
    }

    fn configuration(&self, volume: &VolumeId) -> String {
        let volume = format!("{}format = \"{}\"\n", volume_at("/mydata", volume, self.file_system), self.format);
        // A device of the wrong size is waited for to the deadline.
        let patience = if matches!(self.verdict, Refused(["device-size"], _)) { "8s" } else { "10m" };
        config_with("", &[volume], &format!("[timeouts]\nvolume = \"{patience}\""))
    }
}

fn image(name: impl Into<String>, verdict: Verdict, make: impl Fn(&Disk) + Send + Sync + 'static) -> Image {
    Image {
        name: name.into(),
        make: Box::new(make),
        verdict,
        file_system: "xfs",
        format: "if-blank",
        volume: VolumeSpec::default(),
        device_size: None,
        read_only: false,
        asks_blkid: true,
    }
}

const NOT_BLANK: &[&str] = &["not-blank"];
/// Found only by the direct reads, not by blkid.
const BY_READING: Verdict = Refused(NOT_BLANK, &["no known format was recognised", "the byte at", "is not zero"]);

fn nothing(_: &Disk) {}

/// Blank disks, and blank ones that must not be formatted.
fn blanks() -> Vec<Image> {
    let image = |name: &str, verdict, make: fn(&Disk)| image(name, verdict, make).whatever_blkid_says();
    let refused = |code: &'static [&'static str], said| Refused(code, said);
    let unexpected = &["unexpectedly-blank"];
    let size = &["device-size"];
    vec![
        Image { asks_blkid: true, ..image("blank, sparse", Formatted, nothing) },
        Image { asks_blkid: true, ..image("blank, sparse, for ext4", Formatted, nothing).on("ext4") },
        image("blank, every block allocated and zero", Formatted, |disk| disk.zero(0, disk.size())),
        image("blank, 3 GiB", Formatted, nothing).sized(3 * GIB).on("ext4"),
        Image {
            format: "never",
            ..image("blank, format = \"never\"", refused(unexpected, &["is blank", "never", "all zero"]), nothing)
        },
        Image {
            volume: VolumeSpec { snapshot_id: Some("snap-0123456789abcdef0".to_owned()), ..VolumeSpec::default() },
            ..image(
                "blank, made from a snapshot",
                refused(unexpected, &["snap-0123456789abcdef0", "all zero"]),
                nothing,
            )
        },
        Image {
            volume: VolumeSpec {
                tags: BTreeMap::from([("node-agent:formatted".to_owned(), "xfs 2026-01-01".to_owned())]),
                ..VolumeSpec::default()
            },
            ..image("blank, tagged as formatted", refused(unexpected, &["node-agent:formatted", "all zero"]), nothing)
        },
        Image {
            volume: VolumeSpec { multi_attach: true, ..VolumeSpec::default() },
            ..image("blank, shared by io2 Multi-Attach", refused(&["multi-attach"], &["Multi-Attach"]), nothing)
        },
        Image { read_only: true, ..image("blank, read-only", refused(NOT_BLANK, &["it is read-only"]), nothing) },
        image("blank, of an odd size", refused(size, &["1073742336 bytes", "2 GiB"]), nothing).sized(GIB + 512),
        Image {
            device_size: Some(2 * GIB),
            ..image("blank, larger than EC2 says", refused(size, &["2147483648 bytes", "1 GiB"]), nothing)
        },
        Image {
            device_size: Some(GIB / 2),
            ..image("blank, smaller than EC2 says", refused(size, &["536870912 bytes", "1 GiB"]), nothing)
        },
        Image {
            device_size: Some(GIB - 512),
            ..image("blank, a sector smaller than EC2 says", refused(size, &["1073741312 bytes", "1 GiB"]), nothing)
        },
        Image {
            device_size: Some(2 * GIB),
            ..image("an XFS, larger than EC2 says", refused(size, &["2147483648 bytes", "1 GiB"]), |disk| {
                images::xfs(disk, &[]);
            })
        },
    ]
}

/// Filesystems as their tools make them.
fn filesystems() -> Vec<Image> {
    fn wrong(kind: &'static [&'static str]) -> Verdict {
        Refused(&["wrong-filesystem"], kind)
    }
    fn holds(kind: &'static [&'static str]) -> Verdict {
        Refused(NOT_BLANK, kind)
    }
    let xfs = |name: &str, options: &'static [&'static str]| image(name, Kept, |disk| images::xfs(disk, options));
    let ext4 = |name: &str, options: &'static [&'static str]| {
        image(name, Kept, |disk| images::ext(disk, "ext4", options)).on("ext4")
    };
    vec![
        xfs("an XFS", &[]),
        xfs("an XFS with blocks of 1 KiB", &["-b", "size=1024"]),
        xfs("an XFS with sectors of 4 KiB", &["-s", "size=4096"]),
        xfs("an XFS with seven allocation groups", &["-d", "agcount=7"]),
        image("an XFS where ext4 is configured", wrong(&["holds xfs", "configured is ext4"]), |disk| {
            images::xfs(disk, &[]);
        })
        .on("ext4"),
        // Newer kernels cannot mount it.
        image("an XFS of the old format, without checksums", wrong(&["holds xfs", "configured is ext4"]), |disk| {
            images::xfs(disk, &["-m", "crc=0"]);
        })
        .on("ext4"),
        ext4("an ext4", &[]),
        ext4("an ext4 with blocks of 1 KiB", &["-b", "1024"]),
        ext4("an ext4 with blocks of 2 KiB", &["-b", "2048"]),
        ext4("an ext4 without a journal", &["-O", "^has_journal"]),
        ext4("an ext4 with bigalloc", &["-O", "bigalloc"]),
        image("an ext4 where XFS is configured", wrong(&["holds ext4", "configured is xfs"]), images::ext4),
        image("an ext3", wrong(&["holds ext3"]), |disk| images::ext(disk, "ext3", &[])).on("ext4"),
        image("an ext2", wrong(&["holds ext2"]), |disk| images::ext(disk, "ext2", &[])).on("ext4"),
        image("a btrfs", wrong(&["holds btrfs"]), |disk| disk.tool("mkfs.btrfs", &["-q"])),
        image("an f2fs", wrong(&["holds f2fs"]), |disk| disk.tool("mkfs.f2fs", &["-q"])),
        image("a FAT", wrong(&["holds vfat"]), |disk| disk.tool("mkfs.vfat", &[])),
        image("an exFAT", Refused(&["wrong-filesystem", "not-blank"], &["exfat"]), |disk| disk.tool("mkfs.exfat", &[])),
        image("an NTFS", Refused(&["wrong-filesystem", "not-blank"], &["ntfs"]), images::ntfs),
        image("an ISO 9660", holds(&["iso9660"]), images::iso9660),
        image("a squashfs", holds(&["squashfs"]), images::squashfs),
        image("a swap area", holds(&["swap"]), |disk| disk.tool("mkswap", &[])),
        image("an external journal of ext4", holds(&["jbd"]), |disk| {
            disk.tool("mke2fs", &["-q", "-F", "-O", "journal_dev"]);
        }),
    ]
}

/// What is built upon disks, or divides them.
fn containers() -> Vec<Image> {
    fn holds(kind: &'static [&'static str]) -> Verdict {
        Refused(NOT_BLANK, kind)
    }
    vec![
        image("a LUKS1", holds(&["crypto_LUKS"]), |disk| images::luks(disk, "luks1")),
        image("a LUKS2", holds(&["crypto_LUKS"]), |disk| images::luks(disk, "luks2")),
        image("an LVM physical volume", holds(&["LVM2_member"]), images::lvm),
        image("a RAID member, version 0.90", holds(&["linux_raid_member"]), images::md_0_90),
        image("a RAID member, version 1.0", holds(&["linux_raid_member"]), images::md_1_0),
        image("a RAID member, version 1.1", holds(&["linux_raid_member"]), images::md_1_1),
        image("a RAID member, version 1.2", holds(&["linux_raid_member"]), images::md_1_2),
        image("a ZFS member", Refused(&["wrong-filesystem", "not-blank"], &["zfs_member"]), images::zfs),
        image("a bcache", holds(&["bcache"]), images::bcache),
        image("a DRBD with internal metadata", holds(&["drbd"]), images::drbd),
        image("an Oracle ASM disk", holds(&["oracleasm"]), images::oracle_asm),
        image("a VMFS member", holds(&["VMFS_volume_member"]), images::vmfs),
        image("a BitLocker", holds(&["BitLocker"]), images::bitlocker),
        image("an MBR with a partition", holds(&["partition table (dos)"]), images::mbr),
        image(
            "an MBR's signature and nothing else",
            holds(&["(dos)|the byte at 510 is not zero"]),
            images::mbr_signature,
        ),
        image("a GPT", holds(&["partition table (gpt)"]), images::gpt),
        image("a GPT whose backup is gone", holds(&["partition table (gpt)"]), |disk| {
            images::gpt(disk);
            disk.zero(disk.size() - GPT_BACKUP, GPT_BACKUP);
        }),
        image("a GPT whose primary is gone", holds(&["(gpt)|(PMBR)|(dos)"]), |disk| {
            images::gpt(disk);
            disk.zero(512, GPT_PRIMARY - 512);
        }),
        image("a GPT of which only the backup is left", holds(&["(gpt)|(the end of the device)"]), |disk| {
            images::gpt(disk);
            disk.zero(0, GPT_PRIMARY);
        }),
        image("an ext4 in a partition", holds(&["partition table (dos)"]), images::partitioned_ext4).on("ext4"),
        image("an ext4 in a partition whose table is gone", BY_READING, |disk| {
            images::partitioned_ext4(disk);
            disk.zero(0, 512);
        }),
    ]
}

/// Filesystems that were damaged, wiped or overwritten.
fn damaged() -> Vec<Image> {
    // Older versions of blkid still see an ext4 or XFS in some of these: then the check or the kernel refuses.
    const SOMEHOW: &[&str] = &["not-blank", "filesystem-damaged", "mount-failed"];
    let ext4 = |name: &str, verdict: Verdict, damage: fn(&Disk)| {
        image(name, verdict, move |disk| {
            images::ext4(disk);
            damage(disk);
        })
        .on("ext4")
    };
    let xfs = |name: &str, verdict: Verdict, damage: fn(&Disk)| {
        image(name, verdict, move |disk| {
            images::xfs(disk, &[]);
            damage(disk);
        })
    };
    let several: Verdict = Refused(NOT_BLANK, &["more than one format|the byte at"]);
    vec![
        ext4("an ext4 with the primary superblock zeroed", BY_READING, |disk| disk.zero(EXT4_SUPERBLOCK, KIB)),
        ext4("an ext4 with its magic flipped", BY_READING, |disk| disk.flip(EXT4_MAGIC, 0xff)),
        ext4("an ext4 with one bit of its magic flipped", BY_READING, |disk| disk.flip(EXT4_MAGIC, 0x10)),
        ext4("an ext4 with the first 1 MiB zeroed", BY_READING, |disk| disk.zero(0, MIB)),
        ext4("an ext4 with the first 4 MiB zeroed", BY_READING, |disk| disk.zero(0, 4 * MIB)),
        image("an ext4 with blocks of 1 KiB and the first 4 MiB zeroed", BY_READING, |disk| {
            images::ext(disk, "ext4", &["-b", "1024"]);
            disk.zero(0, 4 * MIB);
        })
        .on("ext4"),
        ext4("an ext4 with the first and last 4 MiB zeroed", BY_READING, |disk| {
            disk.zero(0, 4 * MIB);
            disk.zero(disk.size() - 4 * MIB, 4 * MIB);
        }),
        // The count of mounts: harmless, but the superblock's checksum is wrong.
        ext4("an ext4 with one altered superblock byte", Refused(SOMEHOW, &[]), |disk| {
            disk.flip(EXT4_SUPERBLOCK + 0x34, 1)
        }),
        ext4("an ext4 with its feature flags altered", Refused(SOMEHOW, &[]), |disk| {
            disk.flip(EXT4_SUPERBLOCK + 0x60, 0x80)
        }),
        ext4("an ext4 after wipefs -a", BY_READING, images::wipefs),
        ext4("an old ext4 with data after wipefs -a and a new XFS label of zeros", BY_READING, |disk| {
            images::wipefs(disk);
            disk.zero(0, 512);
        }),
        ext4("an ext4 and an XFS's superblock before it", several.clone(), |disk| {
            images::ext4_with_xfs_superblock(disk);
        }),
        image("an XFS and an ext4's superblock upon it", several, images::xfs_with_ext4_superblock),
        xfs("an XFS with one bit of its magic flipped", BY_READING, |disk| disk.flip(0, 1)),
        xfs("an XFS with one bit of its root inode's number flipped", Refused(SOMEHOW, &[]), |disk| disk.flip(63, 1)),
        xfs("an XFS with one bit of its block count flipped", Refused(SOMEHOW, &[]), |disk| disk.flip(14, 1)),
        xfs("an XFS with the first sector zeroed", BY_READING, |disk| disk.zero(0, 512)),
        xfs("an XFS with the first 4 MiB zeroed", BY_READING, |disk| disk.zero(0, 4 * MIB)),
        xfs("an XFS after wipefs -a", BY_READING, images::wipefs),
        image("a btrfs with the first 4 MiB zeroed", BY_READING, |disk| {
            disk.tool("mkfs.btrfs", &["-q"]);
            disk.zero(0, 4 * MIB);
        }),
        image("a btrfs of which only the mirror superblock is left", BY_READING, |disk| {
            disk.tool("mkfs.btrfs", &["-q"]);
            let mirror = disk.read(64 * MIB, 4096);
            disk.resize(0);
            disk.resize(GIB);
            disk.write(64 * MIB, mirror);
        }),
        image("an XFS of 5 TiB with the first 4 MiB zeroed", BY_READING, |disk| {
            // Its usual log of 2 GiB takes time to make.
            images::xfs(disk, &["-l", "size=64m"]);
            disk.zero(0, 4 * MIB);
        })
        .sized(5 << 40),
    ]
}

/// Bytes of no known format.
fn bytes() -> Vec<Image> {
    let one =
        |name: String, offset: u64| image(name, BY_READING, move |disk| disk.write(offset, [1])).whatever_blkid_says();
    let mut images = vec![
        image(
            "random bytes all over",
            Refused(NOT_BLANK, &["not zero|recognised|format|cannot tell|it holds"]),
            images::random,
        ),
        image("a text", BY_READING, |disk| disk.write(0, "do not format this disk\n".repeat(1000))),
        image("a database on the raw disk", BY_READING, images::database),
        image("a database on the raw disk, its first MiB zeroed", BY_READING, |disk| {
            images::database(disk);
            disk.zero(0, MIB);
        }),
        image("0xFF all over the first 4 MiB", BY_READING, |disk| disk.fill(0, 4 * MIB, &[0xff; 4096])),
        one("one byte in the middle of the tail".to_owned(), GIB - 2 * MIB + 12_345),
    ];
    for (what, offset) in [
        ("the first byte", 0),
        ("the first sector's last byte", 511),
        ("the last byte of the first 4 MiB", 4 * MIB - 1),
        ("the first byte of the last 4 MiB", GIB - 4 * MIB),
        ("the last byte", GIB - 1),
        ("the 100th of the 256 samples", GIB / 256 * 100),
        ("the last of the 256 samples", GIB / 256 * 255),
        ("the btrfs mirror", 64 * MIB + 64),
    ] {
        images.push(one(format!("one byte: {what}"), offset));
    }
    // The places of the superblock's backups, of all block sizes; the magic would be the byte at 0x38 there.
    for offset in images::ext4_backups(GIB) {
        images.push(one(format!("one byte: an ext4 superblock's backup at {offset}"), offset + 0x38));
    }
    for offset in images::xfs_headers(GIB) {
        images.push(one(format!("one byte: an XFS group's header at {offset}"), offset));
    }
    images
}

fn corpus() -> Vec<Image> {
    [blanks(), filesystems(), containers(), damaged(), bytes()].into_iter().flatten().collect()
}

/// A version of blkid.
struct Blkid {
    version: String,
    /// None is the machine's own.
    program: Option<PathBuf>,
}

/// A world with one disk, which `make` prepares before the agent sees it.
fn world_of(image: &Image) -> (World, VolumeId, Disk) {
    let world = World::with(|config| config.latencies = Latencies::none());
    let volume = world.sim.create_volume(image.volume.clone()).unwrap();
    let disk = Disk::open(&world.sim.volume_state(&volume).unwrap().backing_file);
    if let Some(size) = image.device_size {
        disk.resize(size);
    }
    (image.make)(&disk);
    (world, volume, disk)
}

fn launch(world: &World, blkid: Option<&Path>) -> Instance {
    let node = world.launch();
    if let Some(program) = blkid {
        // With its libraries: a machine does not see where it was fetched to.
        for folder in ["", "lib/"] {
            for entry in fs::read_dir(program.parent().unwrap().join(folder)).unwrap().map(Result::unwrap) {
                if entry.path().is_file() {
                    let name = entry.file_name().into_string().unwrap();
                    node.write(&format!("/opt/util-linux/{folder}{name}"), fs::read(entry.path()).unwrap());
                }
            }
        }
        node.shell("chmod -R a+x /opt/util-linux");
        // Found before all others by the agent.
        node.write("/usr/sbin/blkid", "#!/bin/sh\nexec /opt/util-linux/blkid \"$@\"\n");
    }
    node
}

/// Attaches the volume beforehand, so that something can be done to its device.
fn attached(world: &World, volume: &VolumeId, node: &Instance) -> PathBuf {
    world.sim.attach(volume, &node.id, "/dev/sdf").unwrap();
    let mut device = None;
    support::wait_until(
        || {
            device = world.sim.device(volume, &node.id);
            device.is_some()
        },
        || "the device never appeared".to_owned(),
    );
    device.unwrap()
}

/// Puts a read-only device over the same disk in the place of the volume's; it lives as long as what is returned. (The
/// kernel's flag for a device that exists outlives it: the next one of that number would be read-only too.)
fn read_only(node: &Instance, volume: &VolumeId, disk: &Disk) -> File {
    let losetup = |arguments: &[&OsStr]| {
        let output = Command::new("losetup").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let device = losetup(&["--read-only".as_ref(), "--find".as_ref(), "--show".as_ref(), disk.path.as_ref()]);
    let open = File::open(&device).unwrap();
    // Held open, it goes at its last close.
    losetup(&["--detach".as_ref(), device.as_ref()]);
    node.shell(&format!("ln -sfn {device} /dev/disk/by-id/{}", Sim::link_name(volume)));
    open
}

/// Runs the agent on the image and returns its last line; panics on a wrong verdict. With an intent, the agent's journal says that
/// it began to format this very disk, and the reason of a refusal may differ.
fn judge(image: &Image, blkid: &Blkid, intent: bool) -> String {
    let (world, volume, disk) = world_of(image);
    let node = launch(&world, blkid.program.as_deref());
    if intent {
        let uuid = intent::uuid_on(&disk, image.file_system);
        intent::plant(&node, &volume, disk.size(), image.file_system, uuid.as_deref());
    }
    let _read_only = image.read_only.then(|| {
        attached(&world, &volume, &node);
        read_only(&node, &volume, &disk)
    });
    let before = disk.contents();

    let outcome = node.run(&image.configuration(&volume));

    let formatted = outcome.log.matches("formatted /dev/").count();
    match &image.verdict {
        Formatted | Kept => {
            assert_eq!(outcome.code, Some(0), "{}", outcome.log);
            assert_eq!(node.shell("findmnt -no FSTYPE /mydata"), image.file_system);
            assert_eq!(world.completions(), ["CONTINUE"]);
        }
        Refused(codes, said) => {
            if intent {
                must_be_refused(&outcome, &[*codes, NOT_BLANK].concat(), &[]);
            } else {
                must_be_refused(&outcome, codes, said);
            }
            assert_eq!(disk.contents().difference(&before), None, "the disk was written to: {}", outcome.log);
            assert_eq!(node.shell("findmnt /mydata || echo none"), "none");
            assert!(world.completions().is_empty());
        }
    }
    match &image.verdict {
        Formatted => assert_eq!(formatted, 1, "{}", outcome.log),
        Kept => assert_eq!(node.shell("cat /mydata/precious"), PRECIOUS),
        Refused(..) => {}
    }
    assert_eq!(formatted > 0, matches!(image.verdict, Formatted), "{}", outcome.log);
    outcome.last().to_owned()
}

/// glibc's words for EIO, and those of musl, with which the agent is shipped.
const UNREADABLE: &str = "Input/output error|I/O error";

fn must_be_refused(outcome: &Outcome, codes: &[&str], said: &[&str]) {
    let last = outcome.last();
    assert!(codes.iter().any(|code| last.contains(&format!(" code={code} "))), "not {codes:?}:\n{}", outcome.log);
    // All are refusals but one: the kernel's own "no" to a mount.
    let expected = if last.contains("code=mount-failed") { 1 } else { 6 };
    assert_eq!(outcome.code, Some(expected), "{}", outcome.log);
    for text in said {
        assert!(text.split('|').any(|text| last.contains(text)), "{text:?} is missing in\n{}", outcome.log);
    }
}

/// Runs the agent on all images, some at a time, and prints a line for each.
fn judge_all(images: &[Image], blkid: &Blkid, intent: bool) {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(image) = images.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = Instant::now();
                    // A thread of its own, because a world has its own mounts.
                    match thread::scope(|scope| scope.spawn(|| judge(image, blkid, intent)).join()) {
                        Ok(last) => println!(
                            "{}: {}: {:.1} s: {last}",
                            blkid.version,
                            image.name,
                            start.elapsed().as_secs_f64()
                        ),
                        Err(_) => wrong.lock().unwrap().push(image.name.clone()),
                    }
                }
            });
        }
    });
    println!("{}: {} images in {:.1} s", blkid.version, images.len(), began.elapsed().as_secs_f64());
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} images were judged wrongly: {wrong:#?}", wrong.len(), images.len());
}

#[test]
fn every_disk_is_judged_for_what_it_carries_and_a_refused_one_keeps_every_byte() {
    let images = corpus();
    assert!(images.len() >= 45);
    judge_all(&images, &Blkid { version: version_of(Path::new("blkid")), program: None }, false);
}

#[test]
fn with_an_intent_to_format_in_the_journal_every_disk_keeps_its_bytes() {
    let images = corpus();
    judge_all(&images, &Blkid { version: version_of(Path::new("blkid")), program: None }, true);
}

/// One volume on one node, for running the agent on many different contents of its disk.
struct Bench {
    world: World,
    volume: VolumeId,
    disk: Disk,
    node: Instance,
    device: PathBuf,
    file_system: &'static str,
}

impl Bench {
    fn new(size_bytes: u64, file_system: &'static str) -> Bench {
        let world = World::with(|config| config.latencies = Latencies::none());
        let volume = world.sim.create_volume(VolumeSpec { size_bytes, ..VolumeSpec::default() }).unwrap();
        let disk = Disk::open(&world.sim.volume_state(&volume).unwrap().backing_file);
        let node = launch(&world, None);
        let device = attached(&world, &volume, &node);
        Bench { world, volume, disk, node, device, file_system }
    }

    /// A blank disk again.
    fn clear(&self) {
        let size = self.disk.size();
        self.disk.resize(0);
        self.disk.resize(size);
    }

    /// Drops the device's own cache, which hides writes to the disk's file.
    fn flush(&self) {
        self.node.shell(&format!("blockdev --flushbufs {}", self.device.display()));
    }

    /// Runs the agent with an intent that fits.
    fn run(&self, uuid: Option<&str>) -> Outcome {
        self.flush();
        intent::plant(&self.node, &self.volume, self.disk.size(), self.file_system, uuid);
        let volume = volume_at("/mydata", &self.volume, self.file_system);
        self.node.run(&config_with("", &[volume], ""))
    }

    /// Runs the agent, which must refuse the disk. Errors: what was written, or how the run ended.
    fn refuses(&self, uuid: Option<&str>) -> Result<String, String> {
        let before = self.disk.contents();
        let outcome = self.run(uuid);
        if let Some(where_) = self.disk.contents().difference(&before) {
            return Err(format!("written {where_}:\n{}", outcome.log));
        }
        if outcome.code != Some(6) || !outcome.last().contains(" code=not-blank ") {
            return Err(format!("not refused:\n{}", outcome.log));
        }
        Ok(outcome.last().to_owned())
    }
}

const UUID: &str = "0f1e2d3c-4b5a-4697-8877-665544332211";

/// A signature, and where the pattern that it is made of lies on the disk: its own place, or any in a probed region.
fn marks(size: u64) -> impl Strategy<Value = (usize, Option<u64>)> {
    let index = any::<Index>;
    (0..signatures::ALL.len(), any::<bool>(), index(), index(), index()).prop_map(
        move |(signature, its_own, kind, region, place)| {
            let kinds = probed(size);
            let region = region.get(kind.get(kinds.as_slice()).as_slice()).clone();
            let length = signatures::ALL[signature].bytes.len() as u64;
            let room = usize::try_from((region.end - region.start).saturating_sub(length)).unwrap() + 1;
            let elsewhere = (region.start + place.index(room) as u64).min(size - length);
            (signature, (!its_own).then_some(elsewhere))
        },
    )
}

#[test]
fn a_disk_with_any_signature_is_never_written_for_an_intent() {
    const CASES: u32 = 60;
    let began = Instant::now();
    let run = |file_system: &'static str, size: u64, uuid: Option<&'static str>| {
        let bench = Bench::new(size, file_system);
        let judged = |(signature, elsewhere): (usize, Option<u64>)| {
            let signature = &signatures::ALL[signature];
            bench.clear();
            bench.disk.write(elsewhere.unwrap_or_else(|| signature.offset(size)), signature.bytes);
            bench.refuses(uuid).map(drop).map_err(|why| TestCaseError::fail(format!("{}: {why}", signature.name)))
        };
        // Each in its place once, then at random.
        for number in 0..signatures::ALL.len() {
            judged((number, None)).unwrap();
        }
        let config = Config { cases: CASES, max_shrink_iters: 8, failure_persistence: None, ..Config::default() };
        TestRunner::new(config).run(&marks(size), judged).map_err(|error| error.to_string()).unwrap();
        signatures::ALL.len() + CASES as usize
    };
    let judged: usize = thread::scope(|scope| {
        let xfs = scope.spawn(|| run("xfs", GIB, None));
        let ext4 = scope.spawn(|| run("ext4", 2 * GIB, Some(UUID)));
        [xfs, ext4].map(|run| run.join().unwrap()).iter().sum()
    });
    println!("{judged} disks with a signature and an intent, none written, in {:?}", began.elapsed());
}

#[test]
fn what_somebody_put_on_a_half_made_filesystem_is_kept_from_its_intent() {
    let began = Instant::now();
    let counts: Vec<_> = thread::scope(|scope| {
        let runs = ["xfs", "ext4"].map(|file_system| {
            scope.spawn(move || {
                let bench = Bench::new(GIB, file_system);
                let mut judged = 0;
                // Made over the remains, as by a tool that does not probe first; each has a signature that libblkid knows.
                for image in containers().into_iter().filter(|image| !image.name.contains("gone")) {
                    bench.clear();
                    intent::killed_mkfs(&bench.disk, file_system, UUID);
                    let remains = bench.disk.contents();
                    (image.make)(&bench.disk);
                    assert!(bench.disk.contents() != remains, "{}", image.name);
                    bench.refuses(Some(UUID)).unwrap_or_else(|why| panic!("{}: {why}", image.name));
                    judged += 1;
                }
                // A file's data, a text, bytes anywhere else than where mkfs writes.
                for (offset, text) in [(5 * MIB, "a database's page"), (700 * MIB, "text"), (GIB - 9, "end")] {
                    bench.clear();
                    intent::killed_mkfs(&bench.disk, file_system, UUID);
                    // Where the direct reads look: the samples and the ends.
                    let offset = if offset < GIB - MIB { offset / (4 * MIB) * (4 * MIB) } else { offset };
                    bench.disk.write(offset, text);
                    bench.refuses(Some(UUID)).unwrap_or_else(|why| panic!("{text} at {offset}: {why}"));
                    judged += 1;
                }
                // Nothing but the remains: this is what the intent is for.
                bench.clear();
                intent::killed_mkfs(&bench.disk, file_system, UUID);
                let outcome = bench.run(Some(UUID));
                assert_eq!(outcome.code, Some(0), "{}", outcome.log);
                assert!(outcome.log.contains("clearing what a killed mkfs left"), "{}", outcome.log);
                assert!(bench.world.completions().contains(&"CONTINUE".to_owned()));
                judged
            })
        });
        runs.map(|run| run.join().unwrap()).into()
    });
    println!("{counts:?} half-made filesystems with something else on them, none written, in {:?}", began.elapsed());
}

/// Something that is done by hand to a volume whose journal has an intent to format it: a script, with $device and /work.
fn by_hand(bench: &Bench, script: &str) -> String {
    bench.node.shell(&format!("device={}; mkdir -p /work\n{script}", bench.device.display()))
}

#[test]
fn an_xfs_made_by_hand_and_filled_is_kept_from_an_intent() {
    const FILLED: &str = "mkfs.xfs -q -K $device; mount $device /work; echo 'the only copy' > /work/precious\n\
                          for number in $(seq 200); do echo $number > /work/$number; done; sync -f /work";
    for uuid in [None, Some(UUID)] {
        // Cut off: its log is dirty.
        let bench = Bench::new(GIB, "xfs");
        by_hand(&bench, &format!("{FILLED}; xfs_io -x -c 'shutdown -f' /work; umount /work"));
        bench.flush();
        let refused = bench.refuses(uuid).unwrap();
        println!("{refused}");
        // The remedy that keeps the data: mounting by hand, which replays the log.
        let (_, remedy) = refused.split_once("mount it by hand (").unwrap();
        by_hand(&bench, remedy.split_once(')').unwrap().0);
        let outcome = bench.run(uuid);
        assert_eq!(outcome.code, Some(0), "{}", outcome.log);
        assert_eq!(bench.node.shell("cat /mydata/precious /mydata/200"), "the only copy\n200");
        assert!(bench.node.journal()["volumes"][bench.volume.as_str()]["formatting"].is_null());

        // Unmounted: whole, and used as it is.
        let bench = Bench::new(GIB, "xfs");
        by_hand(&bench, &format!("{FILLED}; chown 65534 /work/precious; umount /work"));
        let outcome = bench.run(uuid);
        assert_eq!(outcome.code, Some(0), "{}", outcome.log);
        assert!(outcome.log.contains("it is kept as it is"), "{}", outcome.log);
        assert_eq!(bench.node.shell("cat /mydata/precious; stat -c %u /mydata/precious"), "the only copy\n65534");
        let tags = bench.world.sim.volume_state(&bench.volume).unwrap().tags;
        assert_eq!(tags["node-agent:formatting"], "done");
        assert!(!tags.contains_key("node-agent:formatted"), "{tags:?}");
    }
}

#[test]
fn an_ext4_that_was_ever_mounted_is_kept_from_an_intent_however_damaged() {
    for (uuid, damage) in [
        (None, "debugfs -w -R 'clri <2>' $device; debugfs -w -R 'ssv state 0' $device"),
        (Some(UUID), "dd if=/dev/zero of=$device bs=1M seek=16 count=4 conv=notrunc"),
        (Some(UUID), "dd if=/dev/zero of=$device bs=1k seek=1 count=1 conv=notrunc"),
    ] {
        let bench = Bench::new(GIB, "ext4");
        by_hand(
            &bench,
            &format!(
                "mkfs.ext4 -q -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 -O ^orphan_file -U {UUID} $device\n\
                 mount -o noinit_itable $device /work; echo 'the only copy' > /work/precious; umount /work\n{damage} 2>&1; sync"
            ),
        );
        println!("{}", bench.refuses(uuid).unwrap());
    }
}

#[test]
fn a_disk_with_a_mounted_partition_is_kept_from_an_intent_and_the_mount_is_named() {
    for file_system in ["xfs", "ext4"] {
        let bench = Bench::new(GIB, file_system);
        images::partitioned_ext4(&bench.disk);
        bench.flush();
        // Without udev its node is made by hand.
        by_hand(
            &bench,
            "partx --add $device; IFS=: read -r major minor < /sys/class/block/${device#/dev/}p1/dev\n\
             mknod /partition b $major $minor; mount /partition /work",
        );
        let refused = bench.refuses(None).unwrap();
        assert!(refused.contains("p1, which is on it, is mounted"), "{refused}");
        by_hand(&bench, "umount /work; partx --delete $device");
    }
}

#[test]
fn a_device_that_somebody_holds_exclusively_is_never_cleared_for_an_intent() {
    let bench = Bench::new(GIB, "xfs");
    intent::killed_mkfs(&bench.disk, "xfs", UUID);
    let before = bench.disk.contents();
    bench.flush();
    intent::plant(&bench.node, &bench.volume, bench.disk.size(), "xfs", Some(UUID));
    // As a mount in another mount namespace holds it.
    let held = OpenOptions::new().read(true).custom_flags(OFlag::O_EXCL.bits()).open(&bench.device).unwrap();
    let agent = bench.node.start(&config_with("", &[volume_at("/mydata", &bench.volume, "xfs")], ""));
    agent.wait_for("cannot be opened exclusively");
    assert_eq!(bench.disk.contents().difference(&before), None);
    drop(held);
    let outcome = agent.end();
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
}

#[test]
fn without_its_checker_a_filesystem_is_refused_for_an_intent_and_the_tool_named() {
    for (file_system, checker) in [("xfs", "xfs_repair"), ("ext4", "e2fsck")] {
        for arrange in ["rm", "printf '#!/bin/sh\\nexit 1\\n' >", "printf '#!/bin/sh\\nkill -9 $$\\n' >"] {
            let bench = Bench::new(GIB, file_system);
            bench.disk.tool(&format!("mkfs.{file_system}"), &["-q"]);
            bench.node.shell(&format!(
                "cp --remove-destination -L /usr/sbin/{checker} /opt/{checker}
                cp --remove-destination /opt/{checker} /usr/sbin/{checker}; {arrange} /usr/sbin/{checker}"
            ));
            let refused = bench.refuses(None).unwrap();
            assert!(refused.contains(checker) && refused.contains("complete is unknown"), "{refused}");
        }
    }
}

/// With the blkid of another Debian release, where `corpus/fetch-util-linux` could fetch it.
fn with_blkid_of(release: &str) {
    let dir = std::env::var_os("NODE_AGENT_UTIL_LINUX").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache/node-agent/util-linux"),
        PathBuf::from,
    );
    let program = dir.join(release).join("blkid");
    if !program.exists() {
        println!("SKIPPED: there is no blkid of {release}; tests/corpus/fetch-util-linux fetches it");
        return;
    }
    let images: Vec<_> = corpus().into_iter().filter(|image| image.asks_blkid).collect();
    judge_all(&images, &Blkid { version: version_of(&program), program: Some(program) }, false);
}

fn version_of(blkid: &Path) -> String {
    let output = Command::new(blkid).arg("--version").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.split_whitespace().find(|word| word.starts_with("2.")).expect("a version").trim_end_matches(',').to_owned()
}

#[test]
fn an_older_blkid_leads_to_the_same_verdicts() {
    with_blkid_of("bullseye");
}

#[test]
fn a_newer_blkid_leads_to_the_same_verdicts() {
    with_blkid_of("trixie");
}

/// Formats a blank volume, then makes it blank again behind the agent's back.
fn formatted_and_wiped(world: &World, image: &Image) -> (Instance, VolumeId) {
    let volume = world.sim.create_volume(image.volume.clone()).unwrap();
    let mut node = launch(world, None);
    node.come_up(&image.configuration(&volume));
    node.reboot();
    let device = world.sim.device(&volume, &node.id).unwrap();
    node.shell(&format!("blkdiscard -f -z {}", device.display()));
    (node, volume)
}

#[test]
fn a_disk_that_was_formatted_and_is_blank_now_is_data_loss_to_a_replacement_too() {
    let world = World::with(|config| config.latencies = Latencies::none());
    let image = image("wiped", Formatted, nothing);
    let (node, volume) = formatted_and_wiped(&world, &image);
    let disk = Disk::open(&world.sim.volume_state(&volume).unwrap().backing_file);
    let before = disk.contents();

    let again = node.run(&image.configuration(&volume));
    must_be_refused(&again, &["unexpectedly-blank"], &["when this node was launched", "all zero"]);

    // The journal is on the old root disk; only the volume's tag tells.
    node.terminate();
    let replacement = launch(&world, None);
    let outcome = replacement.run(&image.configuration(&volume));
    must_be_refused(&outcome, &["unexpectedly-blank"], &["node-agent:formatted", "all zero"]);
    assert_eq!(disk.contents().difference(&before), None);
}

/// Runs the agent on a disk that goes bad in `range` after it was attached.
fn on_a_broken_disk(image: &Image, range: Range<u64>, fault: Fault, said: &[&str]) -> Duration {
    let (world, volume, disk) = world_of(image);
    let before = disk.contents();
    let broken = BrokenDisk::over(&disk.path);
    let node = launch(&world, None);
    let device = attached(&world, &volume, &node);
    // What the kernel cached when the device appeared must not answer the reads.
    node.shell(&format!("blockdev --flushbufs {}", device.display()));
    broken.breaks(range, fault);

    let outcome = node.run(&image.configuration(&volume));

    broken.recovers();
    assert!(broken.struck() > 0, "no read went wrong: {}", outcome.log);
    assert_eq!(broken.writes(), 0, "{}", outcome.log);
    assert!(!outcome.log.contains("formatted /dev/"), "{}", outcome.log);
    must_be_refused(&outcome, &["device-unreadable"], said);
    // The file below, which the broken one hides.
    assert_eq!(disk.contents().difference(&before), None);
    println!("{fault:?}: {}", outcome.last());
    outcome.took
}

fn whole(_: &Image) -> Range<u64> {
    0..GIB
}

#[test]
fn a_disk_whose_reads_fail_is_never_blank_wherever_they_fail() {
    let blank = || image("blank", Formatted, nothing);
    on_a_broken_disk(&blank(), whole(&blank()), Fault::Error, &[UNREADABLE]);
    for range in [
        0..4 * KIB,
        4 * MIB - 4 * KIB..4 * MIB,
        // A backup of ext4's superblock, a header of XFS, the mirror of btrfs, a sample, the last sector
        128 * MIB..128 * MIB + 512,
        256 * MIB..256 * MIB + 512,
        64 * MIB..64 * MIB + 512,
        GIB / 256 * 77..GIB / 256 * 77 + 512,
        GIB - 512..GIB,
    ] {
        on_a_broken_disk(&blank(), range, Fault::Error, &[UNREADABLE]);
    }
    let xfs = image("an XFS", Kept, |disk| images::xfs(disk, &[]));
    on_a_broken_disk(&xfs, whole(&xfs), Fault::Error, &[UNREADABLE]);
    let ext4 = image("an ext4", Kept, images::ext4).on("ext4");
    on_a_broken_disk(&ext4, 0..4 * KIB, Fault::Error, &[UNREADABLE]);
}

/// The agent gives a read 60 s; blkid and the direct reads each have their own.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn a_disk_whose_direct_reads_hang_is_given_up_and_not_blank() {
    let blank = image("blank", Formatted, nothing);
    // Blkid does not look there.
    let took = on_a_broken_disk(&blank, 256 * MIB..256 * MIB + 4 * KIB, Fault::Silence, &["60 s"]);
    assert!(took < PATIENCE, "{took:?}");
}

#[test]
fn a_disk_that_answers_nothing_at_all_is_given_up_and_not_blank() {
    let blank = image("blank", Formatted, nothing);
    let took = on_a_broken_disk(&blank, whole(&blank), Fault::Silence, &["60 s"]);
    assert!(took < PATIENCE, "{took:?}");
}

#[test]
fn an_xfs_on_a_disk_that_answers_nothing_is_given_up() {
    let xfs = image("an XFS", Kept, |disk| images::xfs(disk, &[]));
    let took = on_a_broken_disk(&xfs, whole(&xfs), Fault::Silence, &["60 s"]);
    assert!(took < PATIENCE, "{took:?}");
}

/// What the format rule (docs/design.md) has read, worked out anew, a list for each reason: a disk of `size` bytes that is not
/// zero in one of these is not blank.
fn probed(size: u64) -> Vec<Vec<Range<u64>>> {
    let sized = |offsets: Vec<u64>, length: u64| offsets.into_iter().map(|offset| offset..offset + length).collect();
    let kinds: [Vec<Range<u64>>; 5] = [
        vec![0..4 * MIB, size.saturating_sub(4 * MIB)..size],
        sized(images::ext4_backups(size), KIB),
        // Superblock, free space, inodes, free list: a sector each.
        sized(images::xfs_headers(size), 4 * 512),
        sized(vec![64 * MIB, 256 * GIB], 4 * KIB),
        sized((0..256).map(|sample| size / 256 * sample).collect(), 512),
    ];
    let inside = |region: Range<u64>| region.start..region.end.min(size);
    let kinds = kinds.map(|kind| kind.into_iter().map(inside).filter(|region| !region.is_empty()).collect::<Vec<_>>());
    kinds.into_iter().filter(|kind| !kind.is_empty()).collect()
}

/// What the agent's reader says of a file.
fn read_blank(file: &File) -> serde_json::Value {
    let output = Command::new(AGENT.as_str()).arg("read-blank").stdin(file.try_clone().unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A sparse file with one byte that is not zero.
fn sparse(size: u64, byte: Option<(u64, u8)>) -> File {
    use std::os::unix::fs::FileExt;
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    if let Some((offset, value)) = byte {
        file.write_all_at(&[value], offset).unwrap();
    }
    file
}

/// From a sector to 15 TiB, each magnitude as likely; EBS's own sizes, whole GiB, more often.
fn sizes() -> impl Strategy<Value = u64> {
    let sectors = (0..35_u32)
        .prop_flat_map(|magnitude| (1_u64 << magnitude..2_u64 << magnitude).prop_map(|sectors| sectors * 512));
    let gib = (0..14_u32).prop_flat_map(|magnitude| (1_u64 << magnitude..2_u64 << magnitude).prop_map(|gib| gib * GIB));
    prop_oneof![sectors, gib].prop_filter("ext4 holds 16 TiB", |size| *size < 15 << 40)
}

/// A size, a place in one of its probed regions, and a byte to put there.
fn specks() -> impl Strategy<Value = (u64, u64, u8)> {
    let index = any::<Index>;
    (sizes(), index(), index(), index(), 1..=u8::MAX).prop_map(|(size, kind, region, place, byte)| {
        let kinds = probed(size);
        let region = region.get(kind.get(kinds.as_slice()).as_slice()).clone();
        let length = usize::try_from(region.end - region.start).unwrap();
        (size, region.start + place.index(length) as u64, byte)
    })
}

#[test]
fn a_device_with_a_non_zero_byte_in_a_probed_region_is_never_formatted() {
    const THREADS: usize = 4;
    const CASES: u32 = 128;
    let seen = |(size, offset, byte): (u64, u64, u8)| {
        let seen = read_blank(&sparse(size, Some((offset, byte))));
        if seen["result"] == "non-zero" && seen["offset"] == offset {
            return Ok(());
        }
        Err(TestCaseError::fail(format!("{byte} at {offset} of {size} bytes: {seen}")))
    };
    thread::scope(|scope| {
        let runs: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(move || {
                    let config =
                        Config { cases: CASES, max_shrink_iters: 32, failure_persistence: None, ..Config::default() };
                    TestRunner::new(config).run(&specks(), seen)
                })
            })
            .collect();
        let mut wrong = String::new();
        for run in runs {
            match run.join().unwrap() {
                Ok(()) => {}
                Err(TestError::Fail(why, case)) => writeln!(wrong, "{case:?}: {why}").unwrap(),
                Err(error) => writeln!(wrong, "{error}").unwrap(),
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    });
}

#[test]
fn a_device_of_zeros_reads_as_zero_whatever_its_size() {
    for size in [512, 4096, 5 * MIB + 512, GIB, GIB + 512, 300 * GIB, 5 << 40] {
        let seen = read_blank(&sparse(size, None));
        assert_eq!(seen["result"], "zero", "{size}: {seen}");
    }
}

#[test]
fn every_group_header_that_mkfs_xfs_makes_is_read() {
    for size in [300 * MIB, GIB, 7 * GIB, 300 * GIB, 4 << 40, 5 << 40, 10 << 40] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        let output = Command::new("mkfs.xfs").arg("-N").arg(file.path()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let number = |name: &str| -> u64 {
            let (_, rest) = said.split_once(name).unwrap_or_else(|| panic!("no {name} in {said}"));
            rest.split(|char: char| !char.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        let (count, blocks) = (number("agcount="), number("agsize="));
        let headers: Vec<_> = (1..count).map(|group| group * blocks * 4 * KIB).collect();
        assert_eq!(images::xfs_headers(size), headers, "{said}");
        for header in headers {
            let seen = read_blank(&sparse(size, Some((header, 1))));
            assert_eq!(seen["offset"], header, "one byte at {header} of {size}: {seen}");
        }
    }
}
