//! Docker's containers, by its API (`GET /containers/{id}/json`).

use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rnet_api::ApiError;
use rnet_kernel::Netns;
use rnet_model::{ContainerName, Engine, Kind};
use serde::Deserialize;
use tokio::net::UnixStream;

use super::{Target, opening};
use crate::config;

/// Where Docker listens unless told otherwise.
const DEFAULT: &str = "unix:///var/run/docker.sock";
/// An answer is some ten KiB.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;

/// Docker's socket.
#[derive(Debug, Clone)]
pub(super) struct Docker {
    host: String,
    timeout: Duration,
}

/// What is read of an answer.
#[derive(Debug, Deserialize)]
struct Container {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "State")]
    state: State,
}

#[derive(Debug, Deserialize)]
struct State {
    #[serde(rename = "Running")]
    running: bool,
    #[serde(rename = "Pid")]
    pid: u32,
}

impl Docker {
    pub(super) fn new(config: &config::Docker) -> Self {
        let from_env = || std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        let host = config.host.clone().or_else(from_env).unwrap_or_else(|| DEFAULT.to_owned());
        Docker { host, timeout: Duration::from_millis(config.timeout_ms) }
    }

    /// A running container by name, id or prefix of the id; `None` if Docker knows none.
    pub(super) async fn find(&self, name: &ContainerName) -> Result<Option<Target>, ApiError> {
        let Some(container) = self.ask(name).await? else { return Ok(None) };
        let shown = container.name.trim_start_matches('/').to_owned();
        if !container.state.running || container.state.pid == 0 {
            return Err(ApiError::new(Kind::Missing, format!("docker container {shown} does not run"))
                .hint(format!("start it: docker start {shown}")));
        }
        let netns = Netns::of_process(container.state.pid).map_err(|e| opening(&format!("docker:{shown}"), &e))?;
        // The process may have ended, and its number gone to another one, between the answer and the opening.
        let again = self.ask(name).await?;
        if !again.is_some_and(|c| c.id == container.id && c.state.running && c.state.pid == container.state.pid) {
            return Err(ApiError::new(Kind::Retry, format!("docker container {shown} is being restarted"))
                .hint("repeat the request"));
        }
        let pid = Some(container.state.pid);
        Ok(Some(Target { engine: Engine::Docker, id: container.id, name: shown, netns, pid, path: None }))
    }

    async fn ask(&self, name: &ContainerName) -> Result<Option<Container>, ApiError> {
        let Some(socket) = self.host.strip_prefix("unix://").map(PathBuf::from) else {
            return Err(ApiError::new(Kind::Unavailable, format!("docker at {}: only unix:// is spoken", self.host))
                .hint("a container of another host has no namespace here"));
        };
        let unreachable =
            |why: String| ApiError::new(Kind::Unavailable, format!("cannot ask docker at {}: {why}", self.host));
        let exchange = async {
            let stream = UnixStream::connect(&socket).await.map_err(|e| unreachable(e.to_string()))?;
            let (mut sender, connection) =
                handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(e.to_string()))?;
            tokio::spawn(connection);
            let request = hyper::Request::get(format!("/containers/{name}/json"))
                .header("host", "docker")
                .body(Empty::<Bytes>::new())
                .map_err(|e| unreachable(e.to_string()))?;
            let response = sender.send_request(request).await.map_err(|e| unreachable(e.to_string()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER);
            let bytes = body.collect().await.map_err(|e| unreachable(e.to_string()))?.to_bytes();
            Ok::<_, ApiError>((status, bytes))
        };
        let answer = tokio::time::timeout(self.timeout, exchange).await;
        let (status, bytes) = answer.map_err(|_| unreachable(format!("no answer within {:?}", self.timeout)))??;
        parse(name, status, &bytes)
    }
}

fn parse(name: &ContainerName, status: hyper::StatusCode, bytes: &[u8]) -> Result<Option<Container>, ApiError> {
    if status == hyper::StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if !status.is_success() {
        let said = String::from_utf8_lossy(bytes);
        // Docker answers an ambiguous prefix of an id with 400 or 500 and these words.
        let kind = if said.contains("multiple IDs") { Kind::Conflict } else { Kind::Unavailable };
        return Err(ApiError::new(kind, format!("docker refuses to show {name}: {status}: {}", said.trim())));
    }
    serde_json::from_slice(bytes).map(Some).map_err(|e| {
        ApiError::new(Kind::Unavailable, format!("docker's answer about {name} cannot be read")).because(&e)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hyper::StatusCode;

    use super::*;

    #[test]
    fn answers() {
        let name: ContainerName = "web".parse().unwrap();
        let running = br#"{"Id":"4f","Name":"/web","State":{"Running":true,"Pid":7,"Other":1},"More":{}}"#;
        let found = parse(&name, StatusCode::OK, running).unwrap().unwrap();
        assert_eq!((found.id.as_str(), found.state.pid), ("4f", 7));
        assert!(parse(&name, StatusCode::NOT_FOUND, b"{}").unwrap().is_none());
        assert_eq!(parse(&name, StatusCode::OK, b"[]").unwrap_err().kind, Kind::Unavailable);
        let many = br#"{"message":"multiple IDs found with provided prefix: 4f"}"#;
        assert_eq!(parse(&name, StatusCode::BAD_REQUEST, many).unwrap_err().kind, Kind::Conflict);
    }
}
