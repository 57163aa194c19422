//! systemd's journal, with fields, by its native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>).
//!
//! Not by the crate tracing-journald: it accepts only events, and another process's lines are not events.

use std::io;
use std::os::unix::net::UnixDatagram;

use nix::sys::stat::fstat;
use serde_json::Value;

use super::text::Text;
use super::{Kind, Level, Line};

const SOCKET: &str = "/run/systemd/journal/socket";

pub(super) struct Journal {
    socket: UnixDatagram,
    /// For entries that the socket refuses: the standard error leads to the journal, too.
    fallback: Text,
}

impl Journal {
    /// `None` unless the standard error leads to the journal (systemd.exec(5), `JOURNAL_STREAM`).
    pub(super) fn if_connected() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let stat = fstat(io::stderr()).ok()?;
        if stream != format!("{}:{}", stat.st_dev, stat.st_ino) {
            return None;
        }
        Some(Journal { socket: UnixDatagram::unbound().ok()?, fallback: Text::new() })
    }

    /// Blocks while journald does not read. Returns whether the line was accepted.
    pub(super) fn send(&self, line: &Line) -> bool {
        // Addressed anew each time, because journald may restart. An entry over the datagram's limit, 200 KB by default, fails.
        self.socket.send_to(&entry(line), SOCKET).is_ok() || super::write(&self.fallback.render(line))
    }
}

fn entry(line: &Line) -> Vec<u8> {
    // syslog(3)
    let priority = match line.level {
        Level::Error => "3",
        Level::Warning => "4",
        Level::Info => "6",
        Level::Debug => "7",
    };
    let bar = if line.kind == Kind::Output { "| " } else { "" };
    let mut entry = Vec::new();
    field(&mut entry, "MESSAGE", &format!("{}{bar}{}", line.place(), line.message));
    field(&mut entry, "PRIORITY", priority);
    field(&mut entry, "SYSLOG_IDENTIFIER", "node-agent");
    if let Ok(Value::Object(others)) = serde_json::to_value(line) {
        for (name, value) in
            others.iter().filter(|(name, _)| !matches!(name.as_str(), "time" | "level" | "message" | "why"))
        {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            field(&mut entry, &format!("NODE_AGENT_{}", name.to_uppercase()), &value);
        }
    }
    entry
}

/// `NAME=value`, or with a newline in the value: the name, the value's length and the value.
fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend((value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_lines_fields() {
        let line = Line {
            step: Some("attach".to_owned()),
            volume: Some("vol-0abc".to_owned()),
            kind: Kind::Wait,
            attempt: Some(2),
            allowed_ms: Some(90_000),
            ..Line::note(Level::Warning, "held")
        };
        assert_eq!(
            String::from_utf8(entry(&line)).unwrap(),
            "MESSAGE=attach vol-0abc: held\nPRIORITY=4\nSYSLOG_IDENTIFIER=node-agent\nNODE_AGENT_STEP=attach\n\
             NODE_AGENT_VOLUME=vol-0abc\nNODE_AGENT_KIND=wait\nNODE_AGENT_ATTEMPT=2\nNODE_AGENT_ALLOWED_MS=90000\n"
        );
    }

    #[test]
    fn a_value_of_several_lines_is_sent_with_its_length() {
        let entry = entry(&Line::note(Level::Error, "one\nPRIORITY=0"));
        assert!(entry.starts_with(b"MESSAGE\n\x0e\0\0\0\0\0\0\0one\nPRIORITY=0\nPRIORITY=3\n"));
    }
}
