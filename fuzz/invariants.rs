//! What holds of the parsers whatever the input. The fuzz targets check it on inputs of their own making, and
//! `tests/parsers.rs` on those that are kept in `seeds/` and `corpus/`.
#![allow(dead_code, unreachable_pub, reason = "a fuzz target is one of these")]

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::sys::stat::{major, makedev, minor};
use node_agent::config::{self, Config, Scope, Text, fault, script, user_data};
use node_agent::host::fstab::table::{self, Line};
use node_agent::host::mountinfo::{self, Mounted};
use node_agent::host::{export, octal};

/// The configuration's text and, behind the byte 0xff, which no UTF-8 text has, the override.
pub fn config(input: &[u8]) {
    let mut texts = input.splitn(2, |byte| *byte == 0xff).map(String::from_utf8_lossy);
    let main = texts.next().unwrap_or_default();
    loads_or_says_where(&main, texts.next().as_deref());
}

/// User data, plain or gzip.
pub fn user_data(input: &[u8]) {
    match user_data::decode(input.to_vec()) {
        Ok(Text { text, .. }) => {
            assert!(text.len() <= user_data::UNPACKED_LIMIT.max(input.len()));
            assert!(text.as_bytes() == input || input.starts_with(&[0x1f, 0x8b]));
            // What the fuzzer makes larger than a person writes only takes its time.
            if text.len() <= 1 << 16 {
                loads_or_says_where(&text, None);
            }
        }
        Err(_) => assert!(input.starts_with(&[0x1f, 0x8b]) || std::str::from_utf8(input).is_err()),
    }
    let (first, second) = input.split_at(input.len() / 2);
    let packed = gzip(input);
    for whole in [&packed, &[gzip(first), gzip(second)].concat()] {
        match user_data::decode(whole.clone()) {
            Ok(Text { text, .. }) => assert_eq!(text.as_bytes(), input),
            Err(_) => assert!(std::str::from_utf8(input).is_err()),
        }
    }
    // Cut off anywhere, it is an error, never less text.
    let cut = 2 + input.iter().map(|byte| usize::from(*byte)).sum::<usize>() % (packed.len() - 2);
    assert!(user_data::decode(packed[..cut].to_vec()).is_err());
}

/// A bash script.
pub fn hook_script(input: &[u8]) {
    const NAME: &str = "configure_cluster_node";
    let found = script::defines(input, NAME);
    // A line's end behind a backslash is no part of the script.
    let joined = String::from_utf8_lossy(input).replace("\\\n", "");
    assert!(found != script::Definition::Yes || joined.contains(NAME));
    if let Some(fault) = fault::of_script(input, &[NAME], "FILE") {
        assert!(!fault.what.contains('\n') && !fault.instead.is_empty());
    }
}

/// The wanted line in the order of fstab(5), `VOLUME MOUNT-POINT TYPE OPTIONS UUID`, brought to what the configuration
/// lets through; the fstab from the second line on.
pub fn fstab(input: &[u8]) {
    let mut lines = input.splitn(2, |byte| *byte == b'\n');
    let header = lines.next().unwrap_or_default();
    let old = lines.next().unwrap_or_default();
    let mut fields = header.split(|byte| *byte == b' ').map(octal::unescape);
    let mut next = || fields.next().unwrap_or_default();
    let digits = |text: Vec<u8>| String::from_utf8_lossy(&text).replace(|c: char| !c.is_ascii_hexdigit(), "");
    let volume = format!("vol-{:0>17.17}", digits(next()).to_lowercase());
    let path = PathBuf::from(OsString::from_vec(next().into_iter().filter(|byte| *byte != 0).collect()));
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
    let mount_point: PathBuf = [Component::RootDir].into_iter().chain(parts).collect();
    if mount_point == Path::new("/") {
        return;
    }
    let kind = if next().starts_with(b"e") { "ext4" } else { "xfs" };
    let options = String::from_utf8_lossy(&next()).into_owned();
    let unfit = |c: char| c.is_whitespace() || c.is_control() || ['"', '\'', '\\'].contains(&c);
    let options: Vec<String> = options.split(',').map(|option| option.replace(unfit, "")).collect();
    let options: Vec<String> = options.into_iter().filter(|option| !option.is_empty()).collect();
    let source = format!("UUID={:0>8.36}", digits(next()));
    let pass = if kind == "ext4" && old.len() % 2 == 0 { 2 } else { 0 };
    let (volume, source, mount_point, options) = (&volume, &source, &mount_point, &options);
    fstab_is_kept(old, &Line { volume, source, mount_point, kind, options, pass });
}

/// Any text, and values as blkid writes them.
pub fn blkid_export(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let tags = export::parse(&text);
    assert!(tags.len() <= text.lines().count());
    for (name, value) in &tags {
        assert!(!name.contains(['=', '\n']) && !value.contains('\n'), "{name:?} {value:?}");
    }
    // blkid.c, safe_print(): what a shell would read stands behind a backslash, and what cannot be printed is spelled out.
    let values: Vec<String> = latin1(input)
        .split('\0')
        .map(|value| value.chars().filter(|c| *c == ' ' || c.is_ascii_graphic()).collect())
        .collect();
    let mut printed = String::new();
    for (number, value) in values.iter().enumerate() {
        printed.push_str(&format!("TAG{number}="));
        for c in value.chars() {
            if " \\\"'$`<>".contains(c) {
                printed.push('\\');
            }
            printed.push(c);
        }
        printed.push('\n');
    }
    let tags = export::parse(&printed);
    assert_eq!(tags.len(), values.len());
    for (number, value) in values.iter().enumerate() {
        assert_eq!(tags.get(&format!("TAG{number}")), Some(value));
    }
}

/// Any text, and mounts as the kernel writes them.
pub fn mountinfo(input: &[u8]) {
    let any = mountinfo::parse(input);
    assert!(any.len() <= input.split(|byte| *byte == b'\n').count());
    let optional = |mount: &Mounted| if mount.is_slave { 2 } else { 0 };
    let text: Vec<u8> =
        any.iter().flat_map(|mount| kernels_line(mount, mount.kind.as_bytes(), optional(mount))).collect();
    assert_eq!(mountinfo::parse(&text), any);

    let mut parts = input.split(|byte| *byte == 0);
    let mut mounts = Vec::new();
    while let Some(place) = parts.next() {
        let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let source = text();
        let word = |text: String| -> String {
            text.chars().filter(|c| c.is_ascii_alphanumeric() || ['.', ',', '='].contains(c)).collect()
        };
        let kind = word(text());
        let (options, super_options) = (word(text()), word(text()));
        let number = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| place.get(at).copied().unwrap_or_default()));
        mounts.push(Mounted {
            // The kernel has 12 bits of major and 20 of minor numbers.
            device: makedev(number & 0xfff, number >> 12 & 0xf_ffff),
            root: PathBuf::from(OsString::from_vec([b"/", &place[..place.len() / 2]].concat())),
            mount_point: PathBuf::from(OsString::from_vec([b"/", place].concat())),
            options,
            kind,
            source,
            super_options,
            is_slave: mounts.len() % 3 == 2,
        });
    }
    let lines = mounts.iter().enumerate();
    let text: Vec<u8> =
        lines.flat_map(|(number, mount)| kernels_line(mount, mount.kind.as_bytes(), number % 3)).collect();
    assert_eq!(mountinfo::parse(&text), mounts);
}

/// Linux, `fs/proc_namespace.c`, `show_mountinfo()`.
fn kernels_line(mount: &Mounted, kind: &[u8], optional: usize) -> Vec<u8> {
    let escaped = |text: &[u8]| {
        let mut line = Vec::new();
        for byte in text {
            match byte {
                b' ' | b'\t' | b'\n' | b'\\' | b'#' => line.extend(format!("\\{byte:03o}").into_bytes()),
                _ => line.push(*byte),
            }
        }
        line
    };
    [
        format!("36 35 {}:{} ", major(mount.device), minor(mount.device)).into_bytes(),
        escaped(mount.root.as_os_str().as_bytes()),
        b" ".to_vec(),
        escaped(mount.mount_point.as_os_str().as_bytes()),
        format!(" {}", mount.options).into_bytes(),
        ["", " shared:1", " shared:1 master:2"][optional].as_bytes().to_vec(),
        b" - ".to_vec(),
        kind.to_vec(),
        b" ".to_vec(),
        escaped(mount.source.as_bytes()),
        format!(" {}\n", mount.super_options).into_bytes(),
    ]
    .concat()
}

/// Settings that are sound, or mistakes each of which points into its text.
fn loads_or_says_where(main: &str, over: Option<&str>) {
    let text = |name: &str, text: &str| Text { name: name.to_owned(), text: text.to_owned() };
    let load = || config::load(text("main", main), over.map(|over| text("over", over)), Scope::Offline);
    let loaded = load();
    assert!(!config::wants_user_data(main) || over.is_some() || loaded.is_err());
    match loaded {
        Ok(config) => {
            is_sound(&config);
            assert_eq!(load(), Ok(config));
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty());
            for mistake in &mistakes {
                let source = if mistake.source == "main" { main } else { over.unwrap_or_default() };
                let line = source.split('\n').nth(mistake.line - 1);
                let columns = line.map(|line| line.chars().count() + 1).unwrap_or_default();
                assert!((1..=columns).contains(&mistake.column), "outside of the text: {mistake}");
                assert!(!mistake.what.is_empty() && !mistake.instead.is_empty());
                assert!(!mistake.to_string().contains('\n'), "more than a line: {mistake}");
            }
        }
    }
}

fn is_sound(config: &Config) {
    let normal = |path: &Path| {
        let mut parts = path.components();
        // Comparing the text too: components leave `//` and `/./` out.
        let text: PathBuf = path.components().collect();
        parts.next() == Some(Component::RootDir)
            && parts.all(|part| matches!(part, Component::Normal(_)))
            && text.as_os_str() == path.as_os_str()
    };
    let mut seen = HashSet::new();
    for volume in &config.volumes {
        let path = &volume.mount_path;
        assert!(normal(path) && path != Path::new("/"), "{}", path.display());
        assert!(seen.insert(volume.id.to_string()), "two volumes with one id: {}", volume.id);
        assert!(seen.insert(path.display().to_string()), "two volumes on one path: {}", path.display());
        let kind = volume.file_system.as_str();
        let id = volume.id.as_str();
        fstab_is_kept(
            b"UUID=r / ext4 defaults 0 1",
            &Line { volume: id, source: "UUID=u-1", mount_point: path, kind, options: &volume.mount_options, pass: 2 },
        );
    }
    let mut destinations = HashSet::new();
    for file in &config.files {
        let path = &file.destination;
        assert!(normal(path), "{}", path.display());
        assert!(destinations.insert(path), "two files at one place: {}", path.display());
        assert!(file.mode <= 0o7777);
    }
    assert!(config.lifecycle.is_none() || config.hooks.is_some());
    assert!(!config.node.id.is_empty() && !config.node.id.contains(char::is_control));
    assert_eq!(config.digest.len(), 64);
}

/// Rewriting an fstab puts one line of ours at its place and keeps every other byte; it refuses only where a line of
/// somebody else's has the mount point.
pub fn fstab_is_kept(old: &[u8], want: &Line<'_>) {
    let before = lines(old, want);
    let foreign = before.iter().any(|line| line.here && line.volume.is_none());
    let rewritten = table::rewrite(old, want);
    let Ok(changed) = rewritten else {
        return assert!(foreign, "refused without a reason");
    };
    assert!(!foreign, "another line for the mount point was not seen");
    assert!(changed.as_deref() != Some(old), "a change that changes nothing");
    let new = changed.unwrap_or_else(|| old.to_vec());
    assert_eq!(table::rewrite(&new, want), Ok(None), "the second time changes it again");

    let own = table::ours(&new, want.volume).expect("our own line cannot be read back");
    assert_eq!(own.source, want.source);
    let after = lines(&new, want);
    let (ours, others): (Vec<_>, Vec<_>) = after.iter().enumerate().partition(|(_, line)| line.is_ours(want));
    let [(at, line)] = ours[..] else { panic!("{} lines of ours", ours.len()) };
    assert!(line.here && line.volume.as_deref() == Some(want.volume), "not the wanted line");
    assert!(line.raw.ends_with(b"\n"), "the line does not end");
    let fields = latin1(line.raw.trim_ascii());
    let fields: Vec<&str> = fields.split(' ').collect();
    let [source, _, kind, options, "0", pass] = fields[..] else { panic!("not six fields: {fields:?}") };
    assert_eq!((source, kind, pass), (want.source, want.kind, want.pass.to_string().as_str()));
    assert!(options.split(',').any(|option| option == "nofail"));

    let mut kept: Vec<_> = before.iter().filter(|line| !line.is_ours(want)).map(|line| line.raw.to_vec()).collect();
    // In the place of the first that was ours, or behind all.
    assert_eq!(at, before.iter().position(|line| line.is_ours(want)).unwrap_or(kept.len()));
    if let Some(last) = kept.last_mut().filter(|last| at == others.len() && !last.ends_with(b"\n")) {
        last.push(b'\n');
    }
    let others: Vec<_> = others.iter().map(|(_, line)| line.raw.to_vec()).collect();
    assert_eq!(others, kept, "a line that is not ours changed");
}

/// A line of an fstab, read as libmount reads it and not by the agent's own code.
struct Seen<'a> {
    raw: &'a [u8],
    /// Whether it mounts something at the wanted place.
    here: bool,
    /// The volume in the mark.
    volume: Option<String>,
}

impl Seen<'_> {
    fn is_ours(&self, want: &Line<'_>) -> bool {
        self.volume.as_ref().is_some_and(|volume| self.here || volume == want.volume)
    }
}

fn lines<'a>(text: &'a [u8], want: &Line<'_>) -> Vec<Seen<'a>> {
    let wanted = latin1(want.mount_point.as_os_str().as_bytes());
    let wanted = place(&wanted);
    let see = |raw: &'a [u8]| {
        let line = latin1(raw);
        let line = line.trim_matches(|c: char| c.is_ascii_whitespace());
        let fields: Vec<&str> = line.split([' ', '\t']).filter(|field| !field.is_empty()).collect();
        match fields[..] {
            [source, path, ref rest @ ..] if !source.starts_with('#') => {
                let mut options = rest.get(1).copied().unwrap_or_default().split(',');
                let volume = options.find_map(|option| option.strip_prefix("x-node-agent=")).map(str::to_owned);
                Seen { raw, here: place(&decoded(path)) == wanted, volume }
            }
            _ => Seen { raw, here: false, volume: None },
        }
    };
    text.split_inclusive(|byte| *byte == b'\n').map(see).collect()
}

/// Whether a path is absolute, and its parts.
fn place(path: &str) -> (bool, Vec<&str>) {
    (path.starts_with('/'), path.split('/').filter(|part| !part.is_empty() && *part != ".").collect())
}

/// `\040` is a blank.
fn decoded(field: &str) -> String {
    let mut plain = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte.into());
                rest = &rest[at + 4..];
            }
            None => {
                plain.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    plain + rest
}

/// A character for each byte.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(plain).and_then(|()| packed.finish()).unwrap_or_default()
}
