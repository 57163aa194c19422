//! HTTP/1.1 on real sockets, down to resets, silence and answers that stop half way.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::error::SimError;

/// Limits against a misbehaving client; the protocols have none.
const MAX_HEAD: usize = 64 * 1024;
const MAX_BODY: usize = 16 * 1024 * 1024;
const MAX_HEADERS: usize = 100;

/// A request, complete.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Raw, as sent.
    pub(crate) path: String,
    /// Raw, as sent, without the question mark.
    pub(crate) query: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) keep_alive: bool,
}

impl Request {
    /// The first header of that name (in lower case).
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Every header of that name (in lower case).
    pub(crate) fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// The length to announce where no body is sent (HEAD).
    pub(crate) announced: Option<usize>,
}

impl Response {
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("Content-Type", content_type.to_owned())], body: body.into(), announced: None }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Without its body, but with its length.
    pub(crate) fn head_only(mut self) -> Self {
        self.announced = Some(self.body.len());
        self.body.clear();
        self
    }

    fn head(&self, length: usize, keep_alive: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let length = length.to_string();
        head.extend(["Content-Length: ", &length, "\r\nConnection: ", connection, "\r\n\r\n"]);
        head.into_bytes()
    }
}

/// What becomes of a request on the wire.
#[derive(Debug)]
pub(crate) enum Outcome {
    Reply(Response),
    /// The announced length is not reached.
    Truncated(Response),
    /// A TCP reset instead of an answer.
    Reset,
    /// Nothing, for ever.
    Hang,
}

/// What answers requests.
pub(crate) trait Service: Send + Sync + 'static {
    fn answer(&self, request: Request) -> impl Future<Output = Outcome> + Send;
}

/// A stream whose socket can be told to reset.
trait Transport: AsyncRead + AsyncWrite + Unpin + Send {
    fn socket(&self) -> SockRef<'_>;
}

impl Transport for TcpStream {
    fn socket(&self) -> SockRef<'_> {
        SockRef::from(self)
    }
}

impl Transport for TlsStream<TcpStream> {
    fn socket(&self) -> SockRef<'_> {
        SockRef::from(self.get_ref().0)
    }
}

/// Binds a free port of the address.
pub(crate) fn bind(address: IpAddr) -> Result<(StdListener, SocketAddr), SimError> {
    let what = || format!("bind a port on {address}");
    let listener = StdListener::bind((address, 0)).map_err(SimError::io(what()))?;
    listener.set_nonblocking(true).map_err(SimError::io(what()))?;
    let address = listener.local_addr().map_err(SimError::io(what()))?;
    Ok((listener, address))
}

/// Sets the hop limit of everything a listener's connections send, beginning with the handshake.
pub(crate) fn set_hop_limit(listener: &StdListener, hops: u32) -> Result<(), SimError> {
    SockRef::from(listener).set_ttl_v4(hops).map_err(SimError::io(format!("hop limit {hops}")))
}

/// Serves a listener until the runtime ends.
pub(crate) fn serve<S: Service>(runtime: &Handle, listener: StdListener, tls: Option<TlsAcceptor>, service: S) {
    let service = Arc::new(service);
    runtime.spawn(async move {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                eprintln!("ec2-sim: listener: {error}");
                return;
            }
        };
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely: others may be freed.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let (service, tls) = (Arc::clone(&service), tls.clone());
            tokio::spawn(async move {
                // Answers are small and each is written at once.
                let _ = stream.set_nodelay(true);
                match tls {
                    None => converse(stream, &*service).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            converse(stream, &*service).await;
                        }
                    }
                }
            });
        }
    });
}

/// One connection, request after request. What the client does to the connection is the client's affair.
async fn converse<T: Transport, S: Service>(mut stream: T, service: &S) {
    let mut buffer = Vec::new();
    loop {
        let request = match read_request(&mut stream, &mut buffer).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                let answer = Response::new(400, "text/plain", error.to_string());
                let _ = write(&mut stream, &answer, usize::MAX, false).await;
                return;
            }
        };
        let keep_alive = request.keep_alive;
        match service.answer(request).await {
            Outcome::Reply(response) => {
                if write(&mut stream, &response, usize::MAX, keep_alive).await.is_err() || !keep_alive {
                    let _ = stream.shutdown().await;
                    return;
                }
            }
            Outcome::Truncated(response) => {
                let half = response.body.len() / 2;
                let _ = write(&mut stream, &response, half, false).await;
                let _ = stream.shutdown().await;
                return;
            }
            Outcome::Reset => {
                // Closing with a zero linger time sends RST.
                let _ = stream.socket().set_linger(Some(Duration::ZERO));
                return;
            }
            Outcome::Hang => std::future::pending().await,
        }
    }
}

/// Writes at most `limit` bytes of the body, announcing all of it (and something where there is nothing).
async fn write<T: Transport>(stream: &mut T, response: &Response, limit: usize, keep_alive: bool) -> io::Result<()> {
    let mut length = response.announced.unwrap_or(response.body.len());
    let sent = response.body.len().min(limit);
    if limit != usize::MAX {
        length = length.max(1);
    }
    let mut bytes = response.head(length, keep_alive);
    bytes.extend_from_slice(&response.body[..sent]);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

async fn read_request<T: Transport>(stream: &mut T, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        if let Some((mut request, head, expects)) = parse_head(buffer)? {
            let length = body_length(&request)?;
            if expects && buffer.len() < head + length {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            while buffer.len() < head + length {
                if stream.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
            request.body = buffer[head..head + length].to_vec();
            buffer.drain(..head + length);
            return Ok(Some(request));
        }
        if buffer.len() > MAX_HEAD {
            return Err(io::Error::other("the request's head is too long"));
        }
        // A client that goes away, also in the middle of a head, is no error.
        match stream.read_buf(buffer).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
    }
}

/// The request without its body, its head's length, and whether the client waits for a word before sending the body.
fn parse_head(buffer: &[u8]) -> io::Result<Option<(Request, usize, bool)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = match parsed.parse(buffer).map_err(io::Error::other)? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(head) => head,
    };
    let target = parsed.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: parsed
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).trim().to_owned()))
            .collect(),
        body: Vec::new(),
        keep_alive: parsed.version == Some(1),
    };
    if let Some(connection) = request.header("connection") {
        request.keep_alive = !connection.eq_ignore_ascii_case("close");
    }
    let expects = request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    Ok(Some((request, head, expects)))
}

fn body_length(request: &Request) -> io::Result<usize> {
    if request.header("transfer-encoding").is_some() {
        return Err(io::Error::other("chunked requests are not simulated"));
    }
    let length = request.header("content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
    if length > MAX_BODY {
        return Err(io::Error::other("the request's body is too long"));
    }
    Ok(length)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        412 => "Precondition Failed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_the_hop_limit_of_their_listener() {
        let (listener, address) = bind(std::net::Ipv4Addr::LOCALHOST.into()).expect("a port");
        set_hop_limit(&listener, 1).expect("a hop limit");
        listener.set_nonblocking(false).expect("blocking");
        let _client = std::net::TcpStream::connect(address).expect("a connection");
        let (accepted, _) = listener.accept().expect("the other end");
        assert_eq!(accepted.ttl().expect("a hop limit"), 1);
    }
}
