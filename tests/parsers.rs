//! The parsers of foreign text: the fuzz targets' inputs replayed, and fstab files of every shape.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use node_agent::host::fstab::table::Line;
use node_agent::host::octal;
use proptest::prelude::*;

#[path = "../fuzz/invariants.rs"]
mod invariants;

/// Replays the stored inputs of a fuzz target.
fn replay(target: &str, check: fn(&[u8])) {
    for kept in ["seeds", "corpus"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kept).join(target);
        // Every target has seeds; what the fuzzer found beyond them is kept for some.
        let inputs: Vec<PathBuf> =
            fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        assert!(kept != "seeds" || !inputs.is_empty(), "{} is empty", folder.display());
        for path in inputs {
            // A failed test shows the last line.
            eprintln!("{}", path.display());
            check(&fs::read(&path).unwrap());
        }
    }
}

#[test]
fn the_configurations_kept_by_the_fuzzer_end_well() {
    replay("config", invariants::config);
}

#[test]
fn the_fstab_files_kept_by_the_fuzzer_end_well() {
    replay("fstab", invariants::fstab);
}

#[test]
fn the_blkid_outputs_kept_by_the_fuzzer_end_well() {
    replay("blkid_export", invariants::blkid_export);
}

#[test]
fn the_mount_tables_kept_by_the_fuzzer_end_well() {
    replay("mountinfo", invariants::mountinfo);
}

#[test]
fn the_user_data_kept_by_the_fuzzer_ends_well() {
    replay("user_data", invariants::user_data);
}

#[test]
fn the_hook_scripts_kept_by_the_fuzzer_end_well() {
    replay("hook_script", invariants::hook_script);
}

const VOLUMES: [&str; 2] = ["vol-0123456789abcdef0", "vol-01234567"];

/// What is asked for.
#[derive(Clone, Debug)]
struct Wanted {
    volume: &'static str,
    mount_point: PathBuf,
    kind: &'static str,
    options: Vec<String>,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let mount_point = prop_oneof![
        Just("/data".to_owned()),
        Just("/my data".to_owned()),
        Just("/back\\slash".to_owned()),
        Just("/octal\\040".to_owned()),
        Just("/var/lib/käfka#1".to_owned()),
        "(/[^/\\pC]{1,12}){1,4}".prop_filter("no part that is a dot or two", |path| {
            path.split('/').all(|part| part != "." && part != "..")
        }),
    ];
    let option = prop::sample::select(vec!["noatime", "ro", "nofail", "x-systemd.device-timeout=9", "x-node-agent=me"]);
    (
        prop::sample::select(VOLUMES.to_vec()),
        mount_point.prop_map(PathBuf::from),
        prop::sample::select(vec!["xfs", "ext4"]),
        prop::collection::vec(option.prop_map(str::to_owned), 0..3),
    )
        .prop_map(|(volume, mount_point, kind, options)| Wanted { volume, mount_point, kind, options })
}

/// The mount point as another tool may write it: the same path, or nearly.
fn written(mount_point: &Path) -> BoxedStrategy<Vec<u8>> {
    let plain = octal::escape(mount_point.as_os_str().as_encoded_bytes());
    let every_byte = mount_point.as_os_str().as_encoded_bytes().iter().map(|byte| format!("\\{byte:03o}"));
    let every_byte = every_byte.collect::<String>().into_bytes();
    let doubled = String::from_utf8_lossy(&plain).replace('/', "//").into_bytes();
    let dotted = String::from_utf8_lossy(&plain).replace('/', "/./").into_bytes();
    prop_oneof![
        4 => Just(plain.clone()),
        1 => Just([&plain[..], b"/"].concat()),
        1 => Just([&plain[..], b"///"].concat()),
        1 => Just([&plain[..], b"/."].concat()),
        1 => Just(doubled),
        1 => Just(dotted),
        1 => Just(every_byte),
        1 => Just([&plain[..], b"x"].concat()),
        1 => Just([&plain[..], b"/below"].concat()),
        1 => Just(plain[1..].to_vec()),
        1 => Just(mount_point.as_os_str().as_encoded_bytes().to_vec()),
    ]
    .boxed()
}

/// One line with its end: comments, foreign lines, lines of ours, and what is none of these.
fn line(wanted: &Wanted) -> BoxedStrategy<Vec<u8>> {
    let blank = || prop::sample::select(vec![" ", "\t", "  ", " \t ", "\t\t"]);
    let source =
        prop::sample::select(vec!["UUID=u-1", "UUID=old", "/dev/nvme1n1", "LABEL=a\\040b", "tmpfs", "//nas/share"]);
    let elsewhere = prop::sample::select(vec!["/", "/boot", "none", "/dat", "/data2", "/mnt/my\\040disk", "swap"]);
    let place = |ours: u32| {
        let elsewhere = elsewhere.clone().prop_map(|place| place.as_bytes().to_vec());
        prop_oneof![ours => written(&wanted.mount_point), 4 => elsewhere]
    };
    let mark = prop_oneof![
        Just(format!("x-node-agent={}", wanted.volume)),
        prop::sample::select(VOLUMES.to_vec()).prop_map(|volume| format!("x-node-agent={volume}")),
        Just("x-node-agent=".to_owned()),
        Just("x-node-agent".to_owned()),
    ];
    let options = prop::sample::select(vec!["defaults", "noatime,nofail", "rw", "x-systemd.automount"]);
    let managed = (source.clone(), blank(), place(4), blank(), options.clone(), mark.clone()).prop_map(
        |(source, a, place, b, options, mark)| {
            [source.as_bytes(), a.as_bytes(), &place, b.as_bytes(), format!("xfs {options},{mark} 0 0").as_bytes()]
                .concat()
        },
    );
    let more = prop::sample::select(vec!["", " 0", " 0 2", " 0 2 and more fields", " 0 0 # comment"]);
    // Rarely at our mount point, which would end in a refusal.
    let foreign = (source, blank(), prop_oneof![1 => place(4), 9 => place(0)], blank(), options, more).prop_map(
        |(source, a, place, b, options, more)| {
            [source.as_bytes(), a.as_bytes(), &place, b.as_bytes(), format!("ext4 {options}{more}").as_bytes()].concat()
        },
    );
    let text = |text: &str| Just(text.as_bytes().to_vec());
    let commented = managed.clone().prop_map(|line| [b"# ".to_vec(), line].concat());
    let line = prop_oneof![
        4 => foreign,
        3 => managed,
        1 => commented,
        1 => text(""),
        1 => text("   \t"),
        1 => text("# /etc/fstab: static file system information."),
        1 => text("proc"),
        1 => (4_000_usize..9_000).prop_map(|length| vec![b'x'; length]),
        1 => (4_000_usize..9_000).prop_map(|length| [b"/dev/sdz /long ext4 ".to_vec(), vec![b'o'; length]].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    let indent = prop::sample::select(vec!["", "", "", " ", "\t"]);
    let end = prop::sample::select(vec!["\n", "\n", "\n", "\n", "\r\n", " \n", ""]);
    (indent, line, end).prop_map(|(indent, line, end)| [indent.as_bytes(), &line, end.as_bytes()].concat()).boxed()
}

/// An fstab's bytes, readable when a test fails.
#[derive(Clone)]
struct Text(Vec<u8>);

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// An fstab, and what is wanted in it.
fn case() -> impl Strategy<Value = (Text, Wanted)> {
    wanted().prop_flat_map(|wanted| {
        let shaped = prop::collection::vec(line(&wanted), 0..8).prop_map(|lines| lines.concat());
        let old = prop_oneof![9 => shaped, 1 => prop::collection::vec(any::<u8>(), 0..400)];
        (old.prop_map(Text), Just(wanted))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsing_and_rewriting_an_arbitrary_fstab_keeps_every_unrelated_byte((old, wanted) in case()) {
        let Wanted { volume, mount_point, kind, options } = &wanted;
        let pass = if *kind == "ext4" { 2 } else { 0 };
        invariants::fstab_is_kept(&old.0, &Line { volume, source: "UUID=u-1", mount_point, kind, options, pass });
    }
}
