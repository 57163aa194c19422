//! S3: reading objects.

use std::collections::BTreeMap;
use std::sync::Mutex;

use md5::{Digest, Md5};
use percent_encoding::percent_decode_str;
use time::OffsetDateTime;

use crate::clock::http_date;
use crate::core::Core;
use crate::error::ApiError;
use crate::ids::random_hex;
use crate::lock;
use crate::query::Node;
use crate::sigv4::Authorization;
use crate::wire::{Request, Response};

/// An object.
#[derive(Debug, Clone)]
struct Object {
    bytes: Vec<u8>,
    modified: OffsetDateTime,
}

/// What S3 answers to a request that is for another region than the bucket's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongRegion {
    /// 301 `PermanentRedirect`, as a regional endpoint does; the region is in the header `x-amz-bucket-region`.
    Redirect,
    /// 400 `AuthorizationHeaderMalformed`, as the endpoint of the bucket's own region does to a signature for another
    /// one; the region is in the body.
    Malformed,
}

/// A bucket.
#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    /// Its region, where it has one of its own, and the answer to requests for another one.
    placed: Option<(String, WrongRegion)>,
}

/// The buckets. Putting an object makes its bucket.
#[derive(Default)]
pub(crate) struct Objects(Mutex<BTreeMap<String, Bucket>>);

impl Objects {
    pub(crate) fn put(&self, bucket: &str, key: &str, bytes: Vec<u8>, modified: OffsetDateTime) {
        let object = Object { bytes, modified };
        lock(&self.0).entry(bucket.to_owned()).or_default().objects.insert(key.to_owned(), object);
    }

    pub(crate) fn place(&self, bucket: &str, region: &str, answer: WrongRegion) {
        lock(&self.0).entry(bucket.to_owned()).or_default().placed = Some((region.to_owned(), answer));
    }

    fn get(&self, bucket: &str, key: &str) -> Result<Object, ApiError> {
        let buckets = lock(&self.0);
        let bucket = buckets
            .get(bucket)
            .ok_or_else(|| ApiError::new(404, "NoSuchBucket", "The specified bucket does not exist"))?;
        let object = bucket.objects.get(key).cloned();
        object.ok_or_else(|| ApiError::new(404, "NoSuchKey", "The specified key does not exist."))
    }
}

/// The refusal of a request that is for another region than the bucket's, with its error code. S3 looks at the region before
/// it looks at permissions.
pub(crate) fn misplaced(core: &Core, request: &Request) -> Option<(&'static str, Response)> {
    let (name, _) = locate(request);
    let (region, answer) = lock(&core.objects.0).get(&name)?.placed.clone()?;
    let signed = request.header("authorization").and_then(Authorization::parse)?.region;
    if signed == region {
        return None;
    }
    Some(match answer {
        WrongRegion::Redirect => {
            let body = Node::new("Error")
                .with("Code", "PermanentRedirect")
                .with(
                    "Message",
                    "The bucket you are attempting to access must be addressed using the specified endpoint. Please send all \
                     future requests to this endpoint.",
                )
                .with("Endpoint", format!("{name}.s3.{region}.amazonaws.com"))
                .with("Bucket", &name)
                .with("RequestId", random_hex(16).to_uppercase())
                .with("HostId", random_hex(32))
                .document(None);
            ("PermanentRedirect", Response::new(301, "application/xml", body).with("x-amz-bucket-region", region))
        }
        WrongRegion::Malformed => {
            let body = Node::new("Error")
                .with("Code", "AuthorizationHeaderMalformed")
                .with(
                    "Message",
                    format!(
                        "The authorization header is malformed; the region '{signed}' is wrong; expecting '{region}'"
                    ),
                )
                .with("Region", &region)
                .with("RequestId", random_hex(16).to_uppercase())
                .with("HostId", random_hex(32))
                .document(None);
            let response = Response::new(400, "application/xml", body);
            // The answer to HEAD has no body.
            let response =
                if request.method == "HEAD" { response.with("x-amz-bucket-region", region) } else { response };
            ("AuthorizationHeaderMalformed", response)
        }
    })
}

/// The bucket and key a request names: by its host (`bucket.localhost`, `bucket.s3.…`) or by its path.
pub(crate) fn locate(request: &Request) -> (String, String) {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let path = request.path.strip_prefix('/').unwrap_or(&request.path);
    let host = request.header("host").unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    let bucket = host.strip_suffix(".localhost").or_else(|| host.split_once(".s3.").map(|(bucket, _)| bucket));
    if let Some(bucket) = bucket {
        (bucket.to_owned(), decode(path))
    } else {
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        (decode(bucket), decode(key))
    }
}

/// `GetObject` and `HeadObject`.
pub(crate) fn get(core: &Core, request: &Request) -> Result<Response, ApiError> {
    let (bucket, key) = locate(request);
    let Object { bytes, modified } = core.objects.get(&bucket, &key)?;
    let etag = format!("\"{}\"", hex::encode(Md5::digest(&bytes)));
    let length = bytes.len();
    let response = match request.header("range") {
        None => Response::new(200, "application/octet-stream", bytes),
        Some(range) => {
            let (from, to) = parse_range(range, length)
                .ok_or_else(|| ApiError::new(416, "InvalidRange", "The requested range is not satisfiable"))?;
            Response::new(206, "application/octet-stream", &bytes[from..=to])
                .with("Content-Range", format!("bytes {from}-{to}/{length}"))
        }
    };
    Ok(response.with("ETag", etag).with("Last-Modified", http_date(modified)).with("Accept-Ranges", "bytes"))
}

/// The first and last byte of `bytes=a-b`, `bytes=a-` or `bytes=-n`.
fn parse_range(range: &str, length: usize) -> Option<(usize, usize)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let last = length.checked_sub(1)?;
    let (from, to) = match (from, to) {
        ("", suffix) => (length.saturating_sub(suffix.parse().ok().filter(|&suffix: &usize| suffix > 0)?), last),
        (from, "") => (from.parse().ok()?, last),
        (from, to) => (from.parse().ok()?, to.parse::<usize>().ok()?.min(last)),
    };
    (from <= to).then_some((from, to))
}

/// S3's form of an error.
pub(crate) fn error_response(error: &ApiError) -> Response {
    let body = Node::new("Error")
        .with("Code", &error.code)
        .with("Message", &error.message)
        .with("RequestId", random_hex(16).to_uppercase())
        .with("HostId", random_hex(32))
        .document(None);
    Response::new(error.http, "application/xml", body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_has_them() {
        for (range, expected) in [
            ("bytes=0-3", Some((0, 3))),
            ("bytes=4-", Some((4, 9))),
            ("bytes=-3", Some((7, 9))),
            ("bytes=5-100", Some((5, 9))),
            ("bytes=10-", None),
            ("bytes=-0", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(parse_range(range, 10), expected, "{range}");
        }
        assert_eq!(parse_range("bytes=0-", 0), None);
    }
}
