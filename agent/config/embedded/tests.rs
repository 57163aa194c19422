//! What is found in user data, and that nothing else is ever taken for the configuration.

use std::io::Write;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

const CONFIG: &str =
    "[node]\nid = \"00\"\nip = \"10.0.1.10\"\n\n[[file]]\ndestination = \"/a: #b\"\ncontents = '''\n  - it's\n'''\n";
const CLOUD_CONFIG: &str = include_str!("../../../packaging/user-data/cloud-config.yaml");
const TEMPLATE: &str = include_str!("../../../packaging/terraform/modules/node-module/user-data.yaml.tftpl");
const SHELL: &str = include_str!("../../../packaging/user-data/user-data.sh");

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(plain).unwrap();
    packed.finish().unwrap()
}

/// The text found, plain and packed alike.
fn text(user_data: &str) -> Option<String> {
    let found = find(user_data.as_bytes());
    assert_eq!(found, find(&gzip(user_data.as_bytes())));
    match found {
        Embedded::Config { text, .. } => Some(text),
        _ => None,
    }
}

fn why(user_data: &str) -> String {
    match find(user_data.as_bytes()) {
        Embedded::Unclear(why) => why,
        other => panic!("{other:?} in {user_data}"),
    }
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("{:by$}{line}\n", "") }).collect()
}

/// As Terraform renders the module's template: `indent` leaves the first line alone and indents empty ones, too.
fn terraform(config: &str) -> String {
    let indented = config.trim_end_matches('\n').replace('\n', "\n      ");
    let directives = |line: &&str| !line.starts_with("%{");
    let lines = TEMPLATE.lines().filter(directives).map(|line| format!("{line}\n"));
    lines.collect::<String>().replace("${node_", "").replace("${indent(6, chomp(config))}", &indented)
}

/// A cloud-config with this entry of `write_files`, indented by two.
fn with_entry(entry: &str) -> String {
    format!("#cloud-config\nwrite_files:\n{}", indented(entry, 2))
}

#[test]
fn the_configuration_is_found_as_it_is_and_in_packagings_own_forms() {
    assert_eq!(text(CONFIG).as_deref(), Some(CONFIG));
    assert_eq!(text(&terraform(CONFIG)).as_deref(), Some(CONFIG));
    let in_example = text(CLOUD_CONFIG).unwrap();
    assert!(
        in_example.starts_with("[node]\n")
            && in_example.ends_with("\n\n[hooks]\nscript = \"/usr/local/lib/node/hooks.sh\"\n")
    );
    let in_shell = text(SHELL).unwrap();
    assert!(in_shell.starts_with("[node]\n") && in_shell.ends_with("script_source = \"s3://my-bucket/hooks.sh\"\n"));
}

#[test]
fn what_is_around_the_configuration_is_all_but_its_text() {
    for (user_data, config) in [(terraform(CONFIG), CONFIG), (SHELL.to_owned(), &text(SHELL).unwrap())] {
        let Embedded::Config { around, .. } = find(user_data.as_bytes()) else { panic!("{user_data}") };
        assert!(around.len() < user_data.len() && around.lines().all(|line| user_data.contains(line)), "{around}");
        assert!(!config.lines().any(|line| line.contains('=') && around.contains(line)), "{around}");
    }
    assert_eq!(find(CONFIG.as_bytes()), Embedded::Config { text: CONFIG.to_owned(), around: String::new() });
}

#[test]
fn a_configuration_with_mistakes_is_still_the_configuration() {
    for config in [
        "[node]\nid 00\n",
        "# mine\n[node\nid = 1\n[lifecycle]\n",
        "[node]\nid = \"a\"\n[nodes]\n",
        "source = \"imds\"\n",
    ] {
        assert_eq!(text(config).as_deref(), Some(config));
        assert_eq!(text(&terraform(config)).as_deref(), Some(config));
    }
}

#[test]
fn an_entry_is_read_as_people_write_it() {
    let block = indented(CONFIG, 4);
    let deeper = indented(CONFIG, 6);
    let base64 = BASE64_STANDARD.encode(CONFIG);
    let (first, rest) = base64.split_at(40);
    let packed = BASE64_STANDARD.encode(gzip(CONFIG.as_bytes()));
    let json = serde_json::to_string(CONFIG).unwrap();
    for entry in [
        format!("- path: {PATH}\n  content: |\n{block}"),
        format!("- content: |\n{block}  path: \"{PATH}\" # mine\n  owner: root:root\n  permissions: '0600'"),
        format!("- path: /a\n  content: x\n-   content: |   # mine\n{deeper}    path: '{PATH}'"),
        format!("-\n  path: {PATH}\n\n  # mine\n  content: |+\n{block}"),
        format!("- path: {PATH}\n  content: |2\n{block}"),
        format!("- path: {PATH}\n  encoding: b64\n  content: {base64}"),
        format!("- path: {PATH}\n  encoding: \"base64\"\n  content: |-\n    {first}\n    {rest}"),
        format!("- encoding: gz+b64\n  path: {PATH}\n  content: '{packed}'\n  defer: true"),
        format!("- \"path\": \"{PATH}\"\n  \"content\": {json}"),
    ] {
        assert_eq!(text(&with_entry(&entry)).as_deref(), Some(CONFIG), "{entry}");
        // The list may stand right below its key, among others.
        let list = format!(
            "#cloud-config\n---\nusers: [a, {{b: \"c]\"}}]\nruncmd:\n- [a, \"it's\"]\n- a b\n  c\n- |\n  x: y\n\"write_files\":\n{}\nssh: {{}}\n",
            entry.trim_end()
        );
        assert_eq!(text(&list).as_deref(), Some(CONFIG), "{list}");
    }
    let strip = format!("- path: {PATH}\n  content: |-\n{block}");
    assert_eq!(text(&with_entry(&strip)).as_deref(), Some(CONFIG.trim_end()));
}

#[test]
fn an_entry_that_is_not_read_with_certainty_is_unclear() {
    let block = indented(CONFIG, 4);
    for (entry, wanted) in [
        (format!("- path: {PATH}\n  content: >\n{block}"), "no content that is one block"),
        (format!("- path: {PATH}\n  content: \"a\n    b\""), "quoted text of several lines in its line 4"),
        (format!("- path: {PATH}\n  content: a\n    b"), "no content that is one block"),
        (format!("- path: {PATH}\n  content: &a b"), "not read in its line 4"),
        (format!("- path: {PATH}\n  content: |\n{block}  append: true"), "has append"),
        (format!("- path: {PATH}\n  source: {{uri: a}}"), "has source"),
        (format!("- path: {PATH}\n  content: !!binary b"), "not read in its line 4"),
        (format!("- path: {PATH}\n  encoding: gzip\n  content: x"), "encoding that is not read"),
        (format!("- path: {PATH}\n  encoding: b64\n  content: x=x"), "is not base64"),
        (format!("- path: {PATH}\n  encoding: gz+b64\n  content: aaaa"), "cannot be unpacked"),
        (format!("- path: {PATH}\n  encoding: b64\n  content: /w=="), "is not UTF-8"),
        (format!("- {{path: {PATH}, content: a}}"), "whose path is not read"),
        (format!("- path: {PATH}\n  content: x\n  content: y"), "key written twice in its line 5"),
        (format!("- path: {PATH}\n  content: x\n- path: {PATH}\n  content: y"), "several entries"),
        (format!("- path: {PATH}\n  content: |\n    [node]\n   id = 1"), "not read in its line 6"),
        (format!("- path: {PATH}\n  content: |\n        \n    [node]"), "more blanks"),
        (format!("- path: {PATH}\n  content: |\n    [node]\n  id = 1"), "not read in its line 6"),
        (format!("- path: {PATH}\n  content: |\n    [node]\u{85}\n"), "a character that is not read"),
        (format!("- path: {PATH}\n  content: |\n{block}\nruncmd:\n- sed -i s/00/01/ {PATH}"), "not read in its line"),
    ] {
        let why = why(&with_entry(&entry));
        assert!(why.contains(wanted), "{why} for {entry}");
    }
    assert!(why(&terraform(CONFIG).replace('\n', "\r\n")).contains("a character that is not read in its line 1"));
    let changed = format!("{}runcmd:\n- sed -i s/00/01/ {PATH}\n", terraform(CONFIG).replace("runcmd:", "bootcmd:"));
    assert!(why(&changed).contains("in 2 places"));
    let owned = format!(
        "{}runcmd:\n- chown root {PATH}\n- [chmod, '0600', {PATH}]\n",
        terraform(CONFIG).replace("runcmd:", "bootcmd:")
    );
    assert_eq!(text(&owned).as_deref(), Some(CONFIG));
}

#[test]
fn a_here_document_is_read_where_the_shell_surely_writes_it() {
    let script = |before: &str, command: &str| format!("#!/bin/bash\n{before}{command}\n{CONFIG}END\necho\n");
    for command in [
        "cat > /etc/node-agent/config.toml <<'END'",
        "cat <<\"END\" >/etc/node-agent/config.toml",
        "cat >'/etc/node-agent/config.toml' << END",
    ] {
        assert_eq!(
            text(&script("set -eu # it is\nif a; then\n  b\nfi\n", command)).as_deref(),
            Some(CONFIG),
            "{command}"
        );
    }
    let command = "cat > /etc/node-agent/config.toml <<'END'";
    for before in [
        "if a; then\n",
        "cat <<'X'\n",
        "a '\n",
        "f() {\n",
        "a &&\n",
        "a | \\\n",
        "(\n",
        "x=$(\n",
        "sed -i x /etc/node-agent/config.toml\n",
    ] {
        assert_eq!(text(&script(before, command)), None, "{before}");
        assert!(!why(&script(before, command)).is_empty());
    }
    for command in [
        "cat >> /etc/node-agent/config.toml <<'END'",
        "cat > /etc/node-agent/config.toml <<-'END'",
        "cat a > /etc/node-agent/config.toml <<'END'",
        "cat > /etc/node-agent/config.toml.new <<'END'",
        "cat > /etc/node-agent/config.toml <<'END' | a",
        "cat > /etc/node-agent/config.toml <<'END' || a",
        "cat > /etc/node-agent/config.toml <<'E'",
        "tee /etc/node-agent/config.toml <<'END'",
        " cat > /etc/node-agent/config.toml <<'END'",
    ] {
        assert!(!why(&script("", command)).is_empty(), "{command}");
    }
    let expanded = script("", "cat > /etc/node-agent/config.toml <<END").replace("00", "$id");
    assert!(why(&expanded).contains("write <<'END'"));
    assert!(why(&script("", command).replace('\n', "\r\n")).contains("carriage returns"));
    assert!(why(&script("", command).replace("/bin/bash", "/usr/bin/python3")).contains("another program"));
}

#[test]
fn other_user_data_holds_no_configuration() {
    for other in [
        "",
        "#!/bin/bash\nyum -y update\n",
        "#cloud-config\npackages: [jq]\n",
        "<powershell>\n",
        "[settings]\na = 1\n",
        "a=1\n",
    ] {
        assert_eq!(find(other.as_bytes()), Embedded::None, "{other}");
    }
    assert_eq!(find(&[0xff, 0x00, 0xfe]), Embedded::None);
    for (other, wanted) in [
        ("Content-Type: multipart/mixed; boundary=x\n", "MIME"),
        (&format!("## template: jinja\n{}", terraform(CONFIG)), "neither TOML nor"),
        (&format!("#cloud-boothook\n#!/bin/sh\ncat > {PATH} <<E\n{CONFIG}E\n"), "neither TOML nor"),
        (&BASE64_STANDARD.encode(CONFIG), "is base64"),
        ("#cloud-config-archive\n- a\n", "cloud-config"),
    ] {
        assert!(why(other).contains(wanted), "{}", why(other));
    }
    assert!(matches!(find(&[0x1f, 0x8b, 0]), Embedded::Unclear(why) if why.starts_with("is broken gzip")));
    assert!(matches!(find(&gzip(&gzip(b"a"))), Embedded::Unclear(why) if why.contains("twice")));
}

/// Lines that are hard to tell from YAML.
fn lines() -> impl Strategy<Value = String> {
    let pieces = "[node] id = \" ' ''' # : - | > \\ \t é { } , & * ! % @ ` ~ --- ... ${x} EOF / 0";
    let pieces: Vec<_> =
        pieces.split(' ').chain([" ", "  ", ": ", " #", "\n", "\n\n", "\n  ", "\n#", "\n---\n"]).collect();
    prop::collection::vec(prop::sample::select(pieces), 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_configuration_in_terraforms_template_is_found_byte_for_byte(config in lines()) {
        let bare = config.trim_end_matches('\n');
        // Blanks before the first line are indentation to YAML, for all lines below, too.
        let is_clear = !bare.is_empty() && !bare.trim_start_matches('\n').starts_with(' ');
        match find(terraform(&config).as_bytes()) {
            Embedded::Config { text, .. } if is_clear => prop_assert_eq!(text, format!("{bare}\n")),
            found => prop_assert!(!is_clear, "{:?}", found),
        }
    }

    #[test]
    fn any_configuration_in_the_shells_here_document_is_found_byte_for_byte(config in lines()) {
        let config = format!("{config}\n");
        let user_data = SHELL.replace(&text(SHELL).unwrap(), &config);
        match find(user_data.as_bytes()) {
            Embedded::Config { text, .. } => prop_assert_eq!(text, config),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn any_bytes_and_any_change_to_the_example_end_well(bytes in any::<Vec<u8>>(), at in any::<prop::sample::Index>(), put in lines()) {
        find(&bytes);
        let mut changed: Vec<char> = CLOUD_CONFIG.chars().collect();
        let at = at.index(changed.len());
        changed.splice(at..at, put.chars());
        find(changed.into_iter().collect::<String>().as_bytes());
    }
}

#[test]
fn deep_nesting_is_refused() {
    let tables: Vec<String> = (0..2000).map(|at| format!("{:at$}a:", "")).collect();
    for deep in ["- ".repeat(100_000), tables.join("\n")] {
        assert!(why(&format!("#cloud-config\n{deep}\n# node-agent/config.toml")).contains("nested too deep"));
    }
}
