//! HTTP/1.1 over TCP inside a namespace: a request, and its answer to the end.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rnet_kernel::Netns;
use serde_json::Value;

/// How long an answer may take: a browser has to start for some.
const LIMIT: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers as they came, with lower-case names.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }
}

/// Sends a request with these words for a head (`GET /x`, further lines with headers) and a body of JSON, if any.
///
/// # Panics
/// When nobody answers.
#[track_caller]
pub fn ask(netns: &Netns, to: SocketAddr, head: &str, body: Option<&Value>) -> Answer {
    try_ask(netns, to, head, body).unwrap_or_else(|e| panic!("{head:?} to {to}: {e}"))
}

/// The same; the error says that nobody answered.
///
/// # Errors
/// When there is no connection or it breaks off.
pub fn try_ask(netns: &Netns, to: SocketAddr, head: &str, body: Option<&Value>) -> std::io::Result<Answer> {
    netns.run(|| exchange(to, head, body)).map_err(std::io::Error::other)?
}

fn exchange(to: SocketAddr, head: &str, body: Option<&Value>) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let (first, more) = head.split_once('\n').unwrap_or((head, ""));
    let more: String = more.lines().map(|line| format!("{line}\r\n")).collect();
    let host = if more.to_ascii_lowercase().contains("host:") { String::new() } else { format!("host: {to}\r\n") };
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    write!(stream, "{first} HTTP/1.1\r\n{host}{more}connection: close\r\ncontent-length: {length}\r\n\r\n{body}")?;
    let mut bytes = Vec::new();
    let mut piece = [0; 16 * 1024];
    // Not every server closes a connection when it is asked to.
    while !is_whole(&bytes) {
        match stream.read(&mut piece)? {
            0 => break,
            n => bytes.extend_from_slice(&piece[..n]),
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other("no end of the head"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let head = head.to_ascii_lowercase();
    let body = if head.contains("transfer-encoding: chunked") { joined(body) } else { body.to_owned() };
    Ok(Answer { status, head, body })
}

/// Whether an answer says how long it is, and is so long.
fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |at| at + 4);
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| bytes.len() >= end + length)
        || (head.contains("transfer-encoding: chunked") && bytes.ends_with(b"\r\n0\r\n\r\n"))
}

/// The chunks of a body without their lengths (RFC 9112, section 7.1).
fn joined(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let Some(chunk) = usize::from_str_radix(length, 16).ok().filter(|n| *n > 0).and_then(|n| rest.get(..n)) else {
            break;
        };
        out.push_str(chunk);
        body = rest.get(chunk.len() + 2..).unwrap_or_default();
    }
    out
}
