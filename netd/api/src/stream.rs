//! Answers that do not end by themselves.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use rnet_model::Kind;

use crate::types::Event;
use crate::{ApiError, Root};

/// An answer as it comes, piece by piece. Blocking.
#[derive(Debug)]
pub struct ByteStream {
    runtime: tokio::runtime::Runtime,
    answer: hyper::Response<Incoming>,
    root: Root,
}

impl ByteStream {
    pub(crate) fn new(runtime: tokio::runtime::Runtime, answer: hyper::Response<Incoming>, root: Root) -> Self {
        ByteStream { runtime, answer, root }
    }

    /// A header of the answer.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        Some(self.answer.headers().get(name)?.to_str().ok()?.to_owned())
    }
}

impl Iterator for ByteStream {
    type Item = Result<Vec<u8>, ApiError>;

    /// The next piece; `None` at the end.
    fn next(&mut self) -> Option<Self::Item> {
        let frame = self.runtime.block_on(self.answer.body_mut().frame())?;
        let bytes = frame.map(|frame| frame.into_data().map(Vec::from).unwrap_or_default());
        Some(bytes.map_err(|e| crate::client::broken(&self.root, &e)))
    }
}

/// Events as they happen.
#[derive(Debug)]
pub struct EventStream {
    bytes: ByteStream,
    buffer: Vec<u8>,
}

impl EventStream {
    pub(crate) fn new(bytes: ByteStream) -> Self {
        EventStream { bytes, buffer: Vec::new() }
    }
}

impl Iterator for EventStream {
    type Item = Result<Event, ApiError>;

    /// The next event; `None` when netd ended.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(
                    serde_json::from_slice(&line)
                        .map_err(|e| ApiError::new(Kind::Bug, "netd sent an event that cannot be read").because(&e)),
                );
            }
            match self.bytes.next()? {
                Ok(bytes) => self.buffer.extend_from_slice(&bytes),
                Err(e) => {
                    return Some(Err(ApiError::new(Kind::Unavailable, "the event stream broke off").because(&e)));
                }
            }
        }
    }
}
