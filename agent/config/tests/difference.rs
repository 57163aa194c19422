//! What is said of two pieces of user data: every change, and no secret.

use std::fmt::Write as _;
use std::io::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::config::{Change, Sha256Digest, difference};

const SHELL: &str = include_str!("../../../packaging/user-data/user-data.sh");

/// The changes as lines: `key: old -> new`.
fn changed(old: &str, new: &str) -> Vec<String> {
    let show = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let line = |Change { key, old, new }| format!("{key}: {} -> {}", show(old), show(new));
    difference(Some(old.as_bytes()), Some(new.as_bytes())).into_iter().map(line).collect()
}

fn digest(text: &str) -> String {
    format!("sha256:{}", &Sha256Digest::of(text.as_bytes()).to_string()[..12])
}

/// packaging's shell with this configuration.
fn shell(config: &str) -> String {
    let (before, rest) = SHELL.split_once("<<'END'\n").unwrap();
    let (_, after) = rest.split_once("\nEND\n").unwrap();
    format!("{before}<<'END'\n{config}END\n{after}")
}

/// What follows `NODE` in two configurations, and the beginnings of the changes.
const CASES: &[(&str, &str, &[&str])] = &[
    ("", "", &[]),
    ("colour = 1", "", &["node.colour: sha256:6b86b273ff34 -> none"]),
    ("[timeouts]\naws = '1m'", "[timeouts]\naws = \"2m\"", &[r#"timeouts.aws: "1m" -> "2m""#]),
    ("[timeouts]\naws = '1m'", "# new\n[timeouts]\naws = '2m'", &[r#"timeouts.aws: "1m" -> "2m""#]),
    ("[hooks]", "", &["hooks: {} -> none"]),
    (
        "[[volume]]\nmount_path = '/a'\nmount_options = ['noatime']\n[[volume]]\nmount_path = '/b'\nowner = 'x'",
        "[[volume]]\nowner = 1000\nmount_path = '/b'\n[[volume]]\nmount_options = []\nmount_path = '/a'\nrecursive = true",
        &[
            r#"volume[/a].mount_options: ["noatime"] -> []"#,
            "volume[/a].recursive: none -> true",
            r#"volume[/b].owner: "x" -> 1000"#,
        ],
    ),
    (
        "[[volume]]\nmount_path = '/a'\nrecursive = true",
        "[[volume]]\nmount_path = '/a'\nrecursive = 'true'",
        &[r#"volume[/a].recursive: true -> "true""#],
    ),
    (
        "[[volume]]\nid = 'a'\n[[volume]]\nid = 'b'",
        "[[volume]]\nid = 'a'\n[[volume]]\nid = 'c'",
        &[r#"volume[#2].id: "b" -> "c""#],
    ),
    (
        "[[volume]]\nmount_path = '/a'\nowner = 'x'\n[[volume]]\nmount_path = '/a'",
        "[[volume]]\nmount_path = '/a'\n[[volume]]\nmount_path = '/a'",
        &[r#"volume[/a].owner: "x" -> none"#],
    ),
    (
        "[[file]]\ndestination = '/a'\nsource = 's3://b/k'",
        "[[file]]\ndestination = '/a'\nsource = 's3://b/l'\nmode = '0600'",
        &[r#"file[/a].source: "s3://b/k" -> "s3://b/l""#, r#"file[/a].mode: none -> "0600""#],
    ),
    (
        "[sidecar]\n'a b' = 1",
        "[sidecar]\nx.y = 1",
        &["sidecar.\"a b\": sha256:6b86b273ff34 -> none", "sidecar.x: none -> sha256:"],
    ),
    ("[[sidecar]]\nx = 1", "[[sidecar]]\nx = 1\n[[sidecar]]", &["sidecar[#2]: none -> {}"]),
    ("x = [1, {a = 1.5}]", "x = [1, {a = 1.6}]", &["node.x: sha256:"]),
    ("[lifecycle]\nasg_name = \"a\\\"\\\\é\"", "", &[r#"lifecycle.asg_name: "a\"\\é" -> none"#]),
];

#[test]
fn every_changed_key_is_named_with_its_values() {
    for (old, new, expected) in CASES {
        let (old, new) = (format!("{NODE}{old}\n"), format!("{NODE}{new}\n"));
        for (old, new) in [(old.clone(), new.clone()), (shell(&old), shell(&new))] {
            let changes = changed(&old, &new);
            assert_eq!(changes.len(), expected.len(), "{changes:?}");
            for (change, expected) in changes.iter().zip(*expected) {
                assert!(change.starts_with(expected), "{change} is not {expected}");
            }
        }
    }
}

#[test]
fn contents_are_compared_by_their_bytes_and_shown_by_their_digest() {
    let file = |key: &str, value: &str| format!("{NODE}[[file]]\ndestination = '/a'\n{key} = '''{value}'''\n");
    let base64 = |text: &str| file("contents_base64", &format!("{}\n", BASE64_STANDARD.encode(text)));
    let (a, b) = (digest("a secret"), digest("b secret"));
    let expected = format!("file[/a].contents: {a} -> {b}");
    assert_eq!(changed(&file("contents", "a secret"), &file("contents", "b secret")), [expected]);
    let expected = format!("file[/a].contents_base64: {a} -> {b}");
    assert_eq!(changed(&file("contents", "a secret"), &base64("b secret")), [expected.as_str()]);
    assert_eq!(changed(&base64("a secret"), &base64("b secret")), [expected]);
    let same = changed(&file("contents", "a secret"), &base64("a secret"));
    assert!(same.len() == 1 && same[0].starts_with("the configuration's comments or layout: sha256:"), "{same:?}");
}

#[test]
fn urls_with_a_query_or_a_user_and_scripts_are_shown_by_their_digest() {
    let hooks = |key: &str, value: &str| changed(NODE, &format!("{NODE}[hooks]\n{key} = '''{value}'''\n")).remove(0);
    for url in ["https://h/k?sig=x", "https://u:p@h/k", "https://u:p/w@h/k", "https://h/k#x", "//u:p@h/k"] {
        assert_eq!(hooks("script_source", url), format!("hooks.script_source: none -> {}", digest(url)));
    }
    assert_eq!(hooks("script_source", "https://h/k"), r#"hooks.script_source: none -> "https://h/k""#);
    assert_eq!(hooks("script", "/a/hooks.sh"), r#"hooks.script: none -> "/a/hooks.sh""#);
    for script in ["f() { a; }", "/bin/a b", "/a\n"] {
        assert!(hooks("script", script).starts_with("hooks.script: none -> sha256:"), "{script}");
    }
    assert_eq!(hooks("script_base64", "YQ"), format!("hooks.script_base64: none -> {}", digest("a")));
}

#[test]
fn a_long_value_is_shortened_and_told_by_its_digest() {
    let long = "é".repeat(200);
    let options = |last: &str| format!("{NODE}[[volume]]\nmount_path = '/a'\nmount_options = ['{long}', '{last}']\n");
    let change = changed(&options("a"), &options("b")).remove(0);
    let (old, new) = change.split_once(" -> ").unwrap();
    assert!(old.contains("é… (sha256:") && new.contains("é… (sha256:") && !old.ends_with(new), "{change}");
    assert!(change.chars().count() < 300, "{change}");
}

#[test]
fn what_is_around_the_configuration_and_its_form_is_compared_as_a_whole() {
    let one =
        |changes: Vec<String>, start: &str| assert!(changes.len() == 1 && changes[0].starts_with(start), "{changes:?}");
    let old = shell(NODE);
    one(changed(&old, &old.replace("--retry 30", "--retry 31")), "user data outside of the configuration: sha256:");
    one(changed(NODE, &old), "user data outside of the configuration: none -> sha256:");
    one(changed(NODE, &format!("{NODE}# comment\n")), "the configuration's comments or layout: sha256:");
    one(changed(NODE, &format!("{NODE}x\n")), "the configuration, which is not valid TOML: sha256:");
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(NODE.as_bytes()).unwrap();
    let changes = difference(Some(NODE.as_bytes()), Some(&packed.finish().unwrap()));
    assert!(changes.len() == 1 && changes[0].key == "user data", "{changes:?}");
}

#[test]
fn user_data_of_another_kind_is_compared_as_a_whole() {
    let script = "#!/bin/sh\nexit\n";
    let expected = format!("user data: {} (15 bytes) -> {} ({} bytes)", digest(script), digest(NODE), NODE.len());
    assert_eq!(changed(script, NODE), [expected]);
    assert_eq!(difference(None, None), []);
    let change = Change { key: "user data".to_owned(), old: None, new: Some(format!("{} (15 bytes)", digest(script))) };
    assert_eq!(difference(None, Some(script.as_bytes())), [change]);
}

/// User data in which `secret` stands wherever one may, in the form that `form` chooses.
fn with_secret(secret: &str, form: usize) -> String {
    let base64 = BASE64_STANDARD.encode(secret);
    let config = format!(
        r#"{NODE}token = '{secret}'
pin.a = ['{secret}']
[[volume]]
mount_path = '/a'
mount_options = ['https://{secret}@h']
[[file]]
destination = '/a'
contents = '{secret}'
[[file]]
destination = '/b'
contents_base64 = '{base64}'
[[file]]
destination = '/c'
source = 'https://h/k?a={secret}'
[[file]]
destination = '/d'
source = 'https://{secret}:x@h/k'
[[file]]
destination = '/e'
contents = ['{secret}']
owner = {{a = '{secret}'}}
[[file]]
destination = 'https://{secret}@h'
[[file]]
destination = "/{secret}\n"
[hooks]
script = 'f() {{ {secret}; }}'
script_base64 = '{base64}'
configure = 'a {secret}'
drain = "a\n{secret}"
[sidecar]
a = '{secret}'
[[sidecars]]
a = '{secret}'
"#
    );
    match form {
        0 => config,
        1 => shell(&config),
        2 => shell(NODE).replace("--retry 30", secret),
        3 => format!("{config}{secret}\n"),
        4 => format!("#!/bin/sh\n{secret}\n"),
        _ => format!("{config}# {secret}\n"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_part_of_a_secret_is_ever_shown(old in "[G-Z]{8,40}", new in "[G-Z]{8,40}", forms in (0..7_usize, 0..7_usize)) {
        let user_data = |secret: &str, form| if form == 6 { NODE.to_owned() } else { with_secret(secret, form) };
        let (old_data, new_data) = (user_data(&old, forms.0), user_data(&new, forms.1));
        let changes = difference(Some(old_data.as_bytes()), Some(new_data.as_bytes()));
        prop_assert_eq!(changes.is_empty(), old_data == new_data);
        let said = format!("{changes:?}");
        for secret in [old.clone(), new.clone(), BASE64_STANDARD.encode(old), BASE64_STANDARD.encode(new)] {
            for part in secret.as_bytes().windows(6) {
                let part = std::str::from_utf8(part).unwrap();
                prop_assert!(!said.contains(part), "{part} of {secret} in {said}");
            }
        }
    }

    #[test]
    fn exactly_the_changed_keys_are_named(values in prop::collection::vec((0..4_u8, 0..4_u8), 9)) {
        let keys = [
            "lifecycle.asg_name", "lifecycle.hook_name", "cluster.gate", "volume[/a].id", "volume[/a].owner",
            "file[/b].contents", "file[/b].mode", "hooks.drain", "timeouts.aws",
        ];
        let tables = [
            ("[lifecycle]", "lifecycle."), ("[cluster]", "cluster."), ("[[volume]]\nmount_path = '/a'", "volume[/a]."),
            ("[[file]]\ndestination = '/b'", "file[/b]."), ("[hooks]", "hooks."), ("[timeouts]", "timeouts."),
        ];
        let config = |side: usize| {
            let mut text = NODE.to_owned();
            for (header, front) in tables {
                // `x` keeps the table from being empty.
                writeln!(text, "{header}\nx = 1").unwrap();
                for (key, value) in keys.iter().zip(&values) {
                    let value = [value.0, value.1][side];
                    if let Some(name) = key.strip_prefix(front).filter(|_| value > 0) {
                        writeln!(text, "{name} = 'v{value}'").unwrap();
                    }
                }
            }
            text
        };
        let (old, new) = (config(0), config(1));
        let changes = difference(Some(old.as_bytes()), Some(new.as_bytes()));
        let named: Vec<String> = changes.into_iter().map(|change| change.key).collect();
        let expected: Vec<&str> = keys.iter().zip(&values).filter(|(_, (a, b))| a != b).map(|(key, _)| *key).collect();
        prop_assert_eq!(named, expected);
    }
}
