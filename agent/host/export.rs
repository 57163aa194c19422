//! The output of `blkid -o export`.

use std::collections::BTreeMap;

/// Parses `NAME=value` lines, in which a backslash precedes characters special to a shell. Control characters stay in blkid's
/// form, `^X`, so that each line is one value.
pub fn parse(text: &str) -> BTreeMap<String, String> {
    let unescape = |value: &str| {
        let mut plain = String::new();
        let mut chars = value.chars();
        while let Some(char) = chars.next() {
            plain.push(if char == '\\' { chars.next().unwrap_or('\\') } else { char });
        }
        plain
    };
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), unescape(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_with_their_escapes() {
        let tags = parse("DEVNAME=/dev/loop0\nLABEL=my\\ disk\nUUID=1-2\nTYPE=ext4\n\nnonsense\n");
        assert_eq!(tags["LABEL"], "my disk");
        assert_eq!(tags["TYPE"], "ext4");
        assert_eq!(tags.len(), 4);
    }
}
