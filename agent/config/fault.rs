//! Recognises texts that are wrong as a whole, to report one line instead of many: a script that bash cannot run, user data
//! that is not TOML. In doubt it reports nothing.

use std::fmt::Display;

use super::script::{is_broken_by_carriage_returns, is_first_word_alone};

/// What is wrong with a text as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The fault: "has Windows line endings (CRLF), …".
    pub what: String,
    /// The remedy, as an instruction.
    pub instead: String,
}

impl Fault {
    #[allow(clippy::unnecessary_wraps, reason = "its callers return the value")]
    fn new(what: impl Display, instead: impl Display) -> Option<Self> {
        Some(Self { what: what.to_string(), instead: instead.to_string() })
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const SCRIPT: &str = "give the bash script itself";

/// The fault of a script on which bash, run with `-e`, certainly fails before it calls one of these functions. `file` is the
/// script's name in the remedies' commands.
pub fn of_script(script: &[u8], functions: &[&str], file: &str) -> Option<Fault> {
    if script.iter().all(u8::is_ascii_whitespace) {
        return Fault::new("is empty", "write a script that defines the hooks' functions");
    }
    if script.starts_with(&[0x1f, 0x8b, 0x08]) {
        return Fault::new("is compressed by gzip, which bash cannot run", "decompress it with gunzip");
    }
    if script.starts_with(b"\x7fELF") {
        return Fault::new("is a program (ELF), not a bash script", SCRIPT);
    }
    if let [0xff, 0xfe, rest @ ..] | [0xfe, 0xff, rest @ ..] = script {
        // bash ignores zero bytes.
        let rest: Vec<u8> = rest.iter().copied().filter(|byte| *byte != 0).collect();
        if is_binary(script) || fails_in_its_first_line(&rest, functions) {
            let instead = format_args!("convert it to UTF-8: iconv -f UTF-16 -t UTF-8 {file}");
            return Fault::new("is UTF-16 text, which bash cannot read", instead);
        }
    }
    if is_binary(script) {
        return Fault::new("is a binary file, not a bash script", SCRIPT);
    }
    if let Some(rest) = script.strip_prefix(BYTE_ORDER_MARK)
        && fails_in_its_first_line(rest, functions)
    {
        let what = "begins with a UTF-8 byte order mark, which bash takes for part of the first command";
        return Fault::new(what, format_args!("remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' {file}"));
    }
    if let Some(page) = page(script) {
        let instead =
            "check what its source returns (perhaps an error page of a proxy or of S3), and give the bash script";
        return Fault::new(format_args!("is {page}, not a bash script"), instead);
    }
    if functions.iter().any(|function| is_broken_by_carriage_returns(script, function)) {
        let what = "has Windows line endings (CRLF), which bash takes as part of its words";
        return Fault::new(what, format_args!("convert it: sed -i 's/\\r$//' {file}"));
    }
    if base64(script).is_some_and(|decoded| decoded.starts_with(b"#!")) {
        return Fault::new("is base64 of a script: it was encoded twice", "encode it once");
    }
    None
}

/// `source` refuses a file with more than 256 zero bytes; it does not count every one of adjacent zero bytes.
fn is_binary(script: &[u8]) -> bool {
    script.windows(2).filter(|pair| pair[1] == 0 && pair[0] != 0).count() > 256
}

/// Whether bash fails in the first line when non-blank bytes precede it: bash runs the line as an unknown command and exits.
fn fails_in_its_first_line(rest: &[u8], functions: &[&str]) -> bool {
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let one_command = !line.iter().any(|byte| b"|&;(){}<>\\'\"`$".contains(byte));
    one_command || functions.iter().any(|function| is_first_word_alone(rest, function))
}

/// The kind of page that a server sent instead of the file.
fn page(text: &[u8]) -> Option<&'static str> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim_ascii_start();
    let begins = |with: &str| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()));
    if begins("<!doctype html") || begins("<html") {
        Some("an HTML page")
    } else if begins("<?xml") {
        Some("an XML document")
    } else if text.starts_with(b"{") && serde_json::from_slice::<serde_json::Value>(text).is_ok() {
        Some("JSON")
    } else {
        None
    }
}

/// Decodes a text that consists of base64.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let bare: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    (bare.len() >= 16).then(|| base64::engine::general_purpose::STANDARD.decode(bare).ok()).flatten()
}

/// The fault of a configuration's text that is not TOML at all. `user_data` selects the remedy.
pub fn of_config(text: &str, user_data: bool) -> Option<Fault> {
    let bare = text.trim_start_matches('\u{feff}').trim_start();
    let wanted = if user_data {
        "give the instance the TOML itself as its user data, plain or gzip"
    } else {
        "write the settings as TOML"
    };
    let line = bare.lines().next().unwrap_or_default().trim_end();
    if bare.is_empty() {
        return None;
    }
    let head = line.to_ascii_lowercase();
    if head.starts_with("content-type:") || head.starts_with("mime-version:") {
        return Fault::new("is a MIME message for cloud-init, not TOML", wanted);
    }
    if let Some(page) = page(bare.as_bytes()).or(bare.starts_with('{').then_some("JSON")) {
        return Fault::new(format_args!("is {page}, not TOML"), wanted);
    }
    let is_gzip = |decoded: &[u8]| decoded.starts_with(&[0x1f, 0x8b]);
    let decoded = base64(bare.as_bytes());
    if let Some(decoded) = decoded.filter(|decoded| is_gzip(decoded) || std::str::from_utf8(decoded).is_ok()) {
        let inside = if is_gzip(&decoded) { "gzip data" } else { "the text" };
        let what = format_args!("is base64 of {inside}, not TOML");
        return if user_data {
            let instead = "encode it once: EC2 decodes once, and the AWS CLI and the console encode by themselves; in Terraform \
                use user_data for plain text, user_data_base64 for text that is base64 already";
            Fault::new(what, instead)
        } else {
            Fault::new(what, "decode it: base64 -d")
        };
    }
    // Each of these may also be a typing error in the first line of TOML.
    let what = if line.starts_with("#!") {
        "is a script, not TOML"
    } else if bare.lines().any(|line| line.starts_with('[') && line.trim_end().ends_with(']')) {
        // It has the header of a TOML table.
        return None;
    } else if line.starts_with("#cloud-config") {
        "is a cloud-config (YAML), not TOML"
    } else if line == "---" || is_yaml_key(line) {
        "is YAML, not TOML"
    } else {
        return None;
    };
    if toml::de::DeTable::parse(text).is_ok() { None } else { Fault::new(what, wanted) }
}

/// The fault of a configuration's bytes that are not UTF-8 text.
pub fn of_bytes(bytes: &[u8]) -> Option<Fault> {
    match bytes {
        [0x1f, 0x8b, ..] => Fault::new("is compressed by gzip", "decompress it: gunzip"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            Fault::new("is UTF-16 text", "convert it to UTF-8: iconv -f UTF-16 -t UTF-8")
        }
        _ => None,
    }
}

/// `node:` or `id: 00`.
fn is_yaml_key(line: &str) -> bool {
    let Some((key, value)) = line.split_once(':') else { return false };
    let word = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    word && (value.is_empty() || value.starts_with(' ')) && !value.contains('=')
}
