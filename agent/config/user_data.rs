//! The instance's user data: the configuration's text, plain or compressed by gzip.

use std::io::{self, Read};
use std::string::FromUtf8Error;

use flate2::read::MultiGzDecoder;

use super::Text;
use super::fault::{self, Fault};

/// The limit in bytes. User data has 16 KiB at most, and a configuration is not much larger once decompressed.
pub const UNPACKED_LIMIT: usize = 1 << 20;

/// User data that is not a text.
#[derive(Debug, thiserror::Error)]
pub enum BadUserData {
    /// Neither gzip nor UTF-8.
    #[error("not UTF-8 text: {0}")]
    NoText(#[source] FromUtf8Error),
    /// Gzip within gzip.
    #[error("it is packed by gzip twice")]
    PackedTwice,
    /// A recognised other encoding.
    #[error("it {}; {}", .0.what, .0.instead)]
    Known(Fault),
    /// Begins like gzip, and is truncated or damaged.
    #[error("broken gzip: {0}")]
    BrokenGzip(#[source] io::Error),
    /// Over [`UNPACKED_LIMIT`].
    #[error("it unpacks to more than {UNPACKED_LIMIT} bytes")]
    TooLarge,
}

/// Decodes user data.
pub fn decode(bytes: Vec<u8>) -> Result<Text, BadUserData> {
    let is_packed = |bytes: &[u8]| bytes.starts_with(&[0x1f, 0x8b]);
    let bytes = if is_packed(&bytes) { unpack(&bytes)? } else { bytes };
    if is_packed(&bytes) {
        return Err(BadUserData::PackedTwice);
    }
    if let Some(fault) = fault::of_bytes(&bytes) {
        return Err(BadUserData::Known(fault));
    }
    let text = String::from_utf8(bytes).map_err(BadUserData::NoText)?;
    Ok(Text { name: super::USER_DATA.to_owned(), text })
}

/// Unpacks gzip, up to [`UNPACKED_LIMIT`].
pub(super) fn unpack(packed: &[u8]) -> Result<Vec<u8>, BadUserData> {
    let mut plain = Vec::new();
    // As gzip(1) does, concatenated members are one text. One byte above the limit shows that the text is too large.
    MultiGzDecoder::new(packed)
        .take(UNPACKED_LIMIT as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(BadUserData::BrokenGzip)?;
    if plain.len() > UNPACKED_LIMIT { Err(BadUserData::TooLarge) } else { Ok(plain) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(plain: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(plain).unwrap();
        packed.finish().unwrap()
    }

    fn length(packed: Vec<u8>) -> usize {
        decode(packed).unwrap().text.len()
    }

    #[test]
    fn text_is_accepted_plain_and_packed() {
        assert_eq!(decode(b"[node]".to_vec()).unwrap().text, "[node]");
        assert_eq!(decode(packed(b"[node]")).unwrap().text, "[node]");
        assert_eq!(decode([packed(b"[no"), packed(b"de]")].concat()).unwrap().text, "[node]");
        assert!(matches!(decode(vec![0xff]), Err(BadUserData::NoText(_))));
        assert!(matches!(decode(packed(&[0xff])), Err(BadUserData::NoText(_))));
        assert!(matches!(decode(packed(&packed(b"[node]"))), Err(BadUserData::PackedTwice)));
        assert!(matches!(decode(b"\xff\xfe[\0".to_vec()), Err(BadUserData::Known(_))));
    }

    #[test]
    fn text_over_the_limit_is_refused_not_truncated() {
        let text = vec![b'\n'; UNPACKED_LIMIT + 1];
        assert_eq!(length(packed(&text[1..])), UNPACKED_LIMIT);
        assert!(matches!(decode(packed(&text)), Err(BadUserData::TooLarge)));
        let member = packed(&text[..UNPACKED_LIMIT / 16]);
        assert_eq!(length(member.repeat(16)), UNPACKED_LIMIT);
        assert!(matches!(decode(member.repeat(17)), Err(BadUserData::TooLarge)));
    }

    #[test]
    fn truncated_or_damaged_gzip_is_refused() {
        for text in [&b"[node]"[..], &vec![b'\n'; UNPACKED_LIMIT]] {
            let whole = packed(text);
            for end in [2, 9, whole.len() / 2, whole.len() - 8, whole.len() - 1] {
                assert!(matches!(decode(whole[..end].to_vec()), Err(BadUserData::BrokenGzip(_))), "{end}");
            }
            // The checksum.
            let mut damaged = whole.clone();
            damaged[whole.len() - 6] ^= 1;
            assert!(matches!(decode(damaged), Err(BadUserData::BrokenGzip(_))));
            assert!(matches!(decode([&whole, &b"more"[..]].concat()), Err(BadUserData::BrokenGzip(_))));
        }
    }
}
