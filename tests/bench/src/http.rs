//! A connection to netd that stays open and reads how long the engine itself worked on a request.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::UnixStream;

/// One answer.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Time of the engine's thread (`server-timing`).
    pub(crate) engine: Duration,
    /// Time until the answer was read.
    pub(crate) wall: Duration,
}

/// A request as a value, so that bursts can be prepared before the clock runs.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    method: &'static str,
    path: String,
    body: Bytes,
}

impl Request {
    pub(crate) fn post(path: impl Into<String>, body: &impl Serialize) -> anyhow::Result<Self> {
        Ok(Request { method: "POST", path: path.into(), body: serde_json::to_vec(body)?.into() })
    }

    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Request { method: "DELETE", path: path.into(), body: Bytes::new() }
    }
}

/// A connection, with a runtime of its own.
#[derive(Debug)]
pub(crate) struct Connection {
    runtime: tokio::runtime::Runtime,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    pub(crate) fn open(socket: &Path) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let sender = runtime.block_on(connect(socket))?;
        Ok(Connection { runtime, sender })
    }

    /// Sends a request and reads its answer.
    pub(crate) fn send(&mut self, request: &Request) -> anyhow::Result<Reply> {
        self.runtime.block_on(exchange(&mut self.sender, request))
    }
}

/// Sends all requests over `connections` connections at once, each in order. Returns how long it took as a whole.
pub(crate) fn burst(socket: &Path, connections: usize, requests: &[Request]) -> anyhow::Result<(Duration, Vec<Reply>)> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut senders = Vec::new();
        for _ in 0..connections {
            senders.push(connect(socket).await?);
        }
        let share = requests.len().div_ceil(connections).max(1);
        let begun = Instant::now();
        let tasks: Vec<_> = senders
            .into_iter()
            .zip(requests.chunks(share).map(<[Request]>::to_vec))
            .map(|(mut sender, requests)| {
                tokio::spawn(async move {
                    let mut replies = Vec::with_capacity(requests.len());
                    for request in &requests {
                        replies.push(exchange(&mut sender, request).await?);
                    }
                    anyhow::Ok(replies)
                })
            })
            .collect();
        let mut replies = Vec::new();
        for task in tasks {
            replies.extend(task.await??);
        }
        Ok((begun.elapsed(), replies))
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().context("cannot start a runtime")
}

async fn connect(socket: &Path) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = UnixStream::connect(socket).await.with_context(|| format!("cannot reach {}", socket.display()))?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn exchange(sender: &mut SendRequest<Full<Bytes>>, request: &Request) -> anyhow::Result<Reply> {
    let Request { method, path, body } = request;
    let message = hyper::Request::builder()
        .method(*method)
        .uri(path)
        .header("host", "netd")
        .header("content-type", "application/json")
        .body(Full::new(body.clone()))?;
    let begun = Instant::now();
    let response = sender.send_request(message).await?;
    let status = response.status();
    let engine = response.headers().get("server-timing").and_then(|v| engine_time(v.to_str().ok()?));
    let bytes = response.into_body().collect().await?.to_bytes();
    let wall = begun.elapsed();
    if !status.is_success() {
        bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&bytes));
    }
    let engine = engine.with_context(|| format!("{method} {path}: netd did not say how long it worked"))?;
    Ok(Reply { engine, wall })
}

/// `engine;dur=0.123`, milliseconds (W3C Server Timing).
fn engine_time(header: &str) -> Option<Duration> {
    let metric = header.split(',').find_map(|m| m.trim().strip_prefix("engine;dur="))?;
    Some(Duration::from_secs_f64(metric.trim().parse::<f64>().ok().filter(|ms| *ms >= 0.0)? / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timing_header() {
        assert_eq!(engine_time("engine;dur=0.25"), Some(Duration::from_micros(250)));
        assert_eq!(engine_time("a;dur=1, engine;dur=2"), Some(Duration::from_millis(2)));
        assert_eq!(engine_time("engine;dur=-1"), None);
    }
}
