//! A client for programs that live for one call: a write and some reads on the socket, without a runtime, which would take
//! longer to start than netd takes to answer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rnet_model::Kind;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{broken, unreachable_daemon};
use crate::{ApiError, CniAdd, CniCheck, CniDel, CniGc, CniReply, CniStatus, Empty, Endpoint, Root};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer that is read, in bytes.
const LIMIT: usize = 4 << 20;
/// Largest head of an answer, in bytes.
const HEAD: usize = 16 << 10;

/// A client of one instance's netd, for the calls of plugin `rnet`.
#[derive(Debug, Clone)]
pub struct DirectClient {
    root: Root,
}

impl DirectClient {
    /// Of the daemon of `root`. Connects with each call.
    pub fn new(root: &Root) -> Self {
        DirectClient { root: root.clone() }
    }

    /// `POST /v1/cni/add`.
    ///
    /// # Errors
    /// netd's own, [`Kind::Unavailable`] when it cannot be reached, [`Kind::Retry`] when it does not answer in time.
    pub fn add(&self, request: &CniAdd) -> Result<CniReply, ApiError> {
        self.post("/v1/cni/add", request)
    }

    /// `POST /v1/cni/del`: what was removed.
    ///
    /// # Errors
    /// As [`DirectClient::add`].
    pub fn del(&self, request: &CniDel) -> Result<Vec<Endpoint>, ApiError> {
        self.post("/v1/cni/del", request)
    }

    /// `POST /v1/cni/check`.
    ///
    /// # Errors
    /// As [`DirectClient::add`].
    pub fn check(&self, request: &CniCheck) -> Result<CniReply, ApiError> {
        self.post("/v1/cni/check", request)
    }

    /// `POST /v1/cni/gc`: what was removed.
    ///
    /// # Errors
    /// As [`DirectClient::add`].
    pub fn gc(&self, request: &CniGc) -> Result<Vec<Endpoint>, ApiError> {
        self.post("/v1/cni/gc", request)
    }

    /// `POST /v1/cni/status`.
    ///
    /// # Errors
    /// As [`DirectClient::add`].
    pub fn status(&self, request: &CniStatus) -> Result<Empty, ApiError> {
        self.post("/v1/cni/status", request)
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body)
            .map_err(|e| ApiError::new(Kind::Bug, format!("cannot encode the request of {path}")).because(&e))?;
        let mut stream = UnixStream::connect(self.root.socket()).map_err(|e| unreachable_daemon(&self.root, &e))?;
        let deadline = Instant::now() + TIMEOUT;
        let (status, answer) = self.exchange(&mut stream, path, &body, deadline)?;
        let unreadable = |e: serde_json::Error| {
            ApiError::new(Kind::Bug, format!("netd's answer to POST {path} cannot be read")).because(&e)
        };
        if status == 200 {
            return serde_json::from_slice(&answer).map_err(unreadable);
        }
        Err(serde_json::from_slice(&answer)
            .unwrap_or_else(|_| ApiError::new(Kind::Bug, format!("netd answered POST {path} with {status}"))))
    }

    /// One request and its answer: status and body.
    fn exchange(
        &self,
        stream: &mut UnixStream,
        path: &str,
        body: &[u8],
        deadline: Instant,
    ) -> Result<(u16, Vec<u8>), ApiError> {
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                ApiError::new(Kind::Retry, format!("netd did not answer POST {path} in {TIMEOUT:?}"))
            }
            _ => broken(&self.root, &e),
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: netd\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.set_write_timeout(Some(TIMEOUT)).map_err(failed)?;
        stream.write_all(&[head.as_bytes(), body].concat()).map_err(failed)?;
        let mut bytes = Vec::with_capacity(4096);
        let mut wanted = None;
        while wanted.as_ref().is_none_or(|head: &Head| bytes.len() < head.begin + head.length) {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            stream.set_read_timeout(Some(left)).map_err(failed)?;
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk).map_err(failed)? {
                0 => return Err(broken(&self.root, &std::io::Error::from(std::io::ErrorKind::UnexpectedEof))),
                n => bytes.extend_from_slice(&chunk[..n]),
            }
            if wanted.is_none() {
                wanted = Head::find(&bytes).map_err(|why| {
                    ApiError::new(Kind::Bug, format!("netd's answer to POST {path} cannot be read: {why}"))
                })?;
            }
        }
        let head = wanted.expect("the loop ends with it");
        Ok((head.status, bytes[head.begin..head.begin + head.length].to_vec()))
    }
}

/// What is needed of the head of an answer: RFC 9112, sections 4 and 6.3.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Where the body begins.
    begin: usize,
    length: usize,
}

impl Head {
    /// `None` as long as it is not whole.
    fn find(bytes: &[u8]) -> Result<Option<Self>, &'static str> {
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
            return if bytes.len() > HEAD { Err("its head is too long") } else { Ok(None) };
        };
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| "its head is no text")?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let length = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
        });
        match (status, length) {
            (Some(_), Some(Ok(length))) if length > LIMIT => Err("it is too long"),
            (Some(status), Some(Ok(length))) => Ok(Some(Head { status, begin: end + 4, length })),
            (None, _) => Err("it is no HTTP/1.1"),
            _ => Err("it has no content-length"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_and_others_refused() {
        let find = |text: &str| Head::find(text.as_bytes());
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\ndate: x\r\n\r\n{}";
        assert_eq!(find(whole), Ok(Some(Head { status: 200, begin: whole.len() - 2, length: 2 })));
        for part in 0..whole.len() - 2 {
            assert_eq!(find(&whole[..part]), Ok(None), "{part}");
        }
        assert!(find("HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(find("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n").is_err());
        assert!(find("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n").is_err());
        assert!(find("SSH-2.0\r\ncontent-length: 1\r\n\r\n").is_err());
        assert!(find(&"x".repeat(HEAD + 1)).is_err());
    }
}
