//! Checking AWS Signature Version 4, as the signing reference describes it
//! (docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html).

use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

use crate::clock::parse_amz;
use crate::core::Core;
use crate::credentials::Issued;
use crate::wire::Request;

/// What RFC 3986 leaves unreserved stays as it is.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// AWS accepts requests signed up to 5 minutes off (EC2's error reference, `RequestExpired`; 15 minutes with S3).
const MAX_SKEW_SECONDS: u64 = 300;

/// Why a request is not let in. Each service has its own words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// Not signed, or not in a form that can be read.
    Unsigned,
    /// The key was never issued, or the session token is not the key's.
    UnknownKey,
    /// Signed too long ago or in the future.
    Skewed,
    /// The credentials have expired.
    Expired,
    /// The signature is another than the simulator's own calculation.
    Mismatch,
}

/// The parts of an `Authorization` header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Authorization<'a> {
    key: &'a str,
    date: &'a str,
    /// The region it is signed for.
    pub(crate) region: &'a str,
    /// The service's signing name, by which requests are routed.
    pub(crate) service: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    pub(crate) fn parse(header: &'a str) -> Option<Self> {
        let fields = header.strip_prefix("AWS4-HMAC-SHA256")?;
        let field = |name: &str| fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
        let mut scope = field("Credential")?.split('/');
        let (key, date, region, service) = (scope.next()?, scope.next()?, scope.next()?, scope.next()?);
        if scope.next() != Some("aws4_request") {
            return None;
        }
        Some(Self {
            key,
            date,
            region,
            service,
            signed_headers: field("SignedHeaders")?,
            signature: field("Signature")?,
        })
    }
}

/// Lets a request in, or tells why not.
pub(crate) fn check(core: &Core, request: &Request) -> Result<Issued, Denial> {
    let header = request.header("authorization").ok_or(Denial::Unsigned)?;
    let authorization = Authorization::parse(header).ok_or(Denial::Unsigned)?;
    let issued = core.issuer.find(authorization.key).ok_or(Denial::UnknownKey)?;
    if request.header("x-amz-security-token") != issued.credentials.session_token.as_deref() {
        return Err(Denial::UnknownKey);
    }
    let now = core.clock.now();
    let stamp = request.header("x-amz-date").ok_or(Denial::Unsigned)?;
    let signed = parse_amz(stamp).ok_or(Denial::Unsigned)?;
    if (now - signed).unsigned_abs().as_secs() > MAX_SKEW_SECONDS {
        return Err(Denial::Skewed);
    }
    if issued.expires.is_some_and(|expires| expires <= now) {
        return Err(Denial::Expired);
    }
    let payload = payload_hash(request).ok_or(Denial::Mismatch)?;
    let expected = signature(&issued.credentials.secret_access_key, &authorization, stamp, request, &payload);
    if expected == authorization.signature { Ok(issued) } else { Err(Denial::Mismatch) }
}

/// The payload's hash as the client announced it, provided it is true, or as calculated.
fn payload_hash(request: &Request) -> Option<String> {
    let actual = hex::encode(Sha256::digest(&request.body));
    match request.header("x-amz-content-sha256") {
        Some("UNSIGNED-PAYLOAD") => Some("UNSIGNED-PAYLOAD".to_owned()),
        Some(announced) => (announced == actual).then_some(actual),
        None => Some(actual),
    }
}

fn signature(secret: &str, scope: &Authorization<'_>, stamp: &str, request: &Request, payload: &str) -> String {
    let headers: String = scope
        .signed_headers
        .split(';')
        .map(|name| {
            let values: Vec<String> = request.headers(name).map(squeeze).collect();
            [name, ":", &values.join(","), "\n"].concat()
        })
        .collect();
    let canonical = [
        request.method.as_str(),
        &request.path,
        &canonical_query(&request.query),
        &headers,
        scope.signed_headers,
        payload,
    ]
    .join("\n");
    let Authorization { date, region, service, .. } = scope;
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{stamp}\n{date}/{region}/{service}/aws4_request\n{}",
        hex::encode(Sha256::digest(canonical))
    );
    let key = [date, region, service, "aws4_request"]
        .into_iter()
        .fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part));
    hex::encode(hmac(&key, &to_sign))
}

/// A header's value without the spaces that do not count.
fn squeeze(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn canonical_query(query: &str) -> String {
    let encode = |text: &str| {
        let plain = percent_decode_str(text).decode_utf8_lossy().into_owned();
        utf8_percent_encode(&plain, RESERVED).to_string()
    };
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (encode(name), encode(value))
        })
        .collect();
    pairs.sort();
    pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `get-vanilla-query-order-key-case` of AWS's published Signature Version 4 test suite.
    #[test]
    fn the_published_example_has_the_published_signature() {
        let request = Request {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            query: "Param2=value2&Param1=value1".to_owned(),
            headers: vec![
                ("host".to_owned(), "example.amazonaws.com".to_owned()),
                ("x-amz-date".to_owned(), "20150830T123600Z".to_owned()),
            ],
            body: Vec::new(),
            keep_alive: true,
        };
        let header = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
            SignedHeaders=host;x-amz-date, \
            Signature=b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500";
        let authorization = Authorization::parse(header).expect("well formed");
        let payload = payload_hash(&request).expect("nothing announced");
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let calculated = signature(secret, &authorization, "20150830T123600Z", &request, &payload);
        assert_eq!(calculated, authorization.signature);
    }
}
