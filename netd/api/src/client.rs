//! Blocking client: one connection per call, every call bounded in time.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use rnet_model::{ContainerName, EndpointId, IfName, Kind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::diagnose::*;
use crate::networks::*;
use crate::observe::{CaptureQuery, EventsQuery, Stats};
use crate::stream::{ByteStream, EventStream};
use crate::types::*;
use crate::{ApiError, Root};

/// A client of one instance's netd.
#[derive(Debug, Clone)]
pub struct Client {
    root: Root,
    timeout: Duration,
}

const TIMEOUT: Duration = Duration::from_secs(30);
/// For what may run plugins of others, each with a time limit of its own (`time_seconds` of netd.toml): netd answers, and
/// names the one that hangs.
const PLUGINS: Duration = Duration::from_secs(600);

impl Client {
    /// Of the daemon of `root`. Connects with the first call.
    pub fn new(root: &Root) -> Self {
        Client { root: root.clone(), timeout: TIMEOUT }
    }

    /// The same with another limit for each call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// `GET /v1/version`.
    pub fn version(&self) -> Result<Version, ApiError> {
        self.get("/v1/version")
    }

    /// `POST /v1/attachments`.
    pub fn attach(&self, request: &AttachRequest) -> Result<AttachReply, ApiError> {
        self.post("/v1/attachments", request)
    }

    /// `GET /v1/attachments`: all endpoints of all containers.
    pub fn attachments(&self) -> Result<Vec<Endpoint>, ApiError> {
        self.get("/v1/attachments")
    }

    /// `GET /v1/attachments/{id}`; a unique prefix of the id is enough.
    pub fn attachment(&self, id: &str) -> Result<Endpoint, ApiError> {
        self.get(&format!("/v1/attachments/{}", segment(id)?))
    }

    /// `POST /v1/detach`: the endpoints that were removed.
    pub fn detach(&self, request: &DetachRequest) -> Result<Vec<Endpoint>, ApiError> {
        self.patient().post("/v1/detach", request)
    }

    /// `GET /v1/ports`: all published ports.
    pub fn publications(&self) -> Result<Vec<Publication>, ApiError> {
        self.get("/v1/ports")
    }

    /// `POST /v1/publish`: what was asked for, as it is.
    pub fn publish(&self, request: &PublishRequest) -> Result<Vec<Publication>, ApiError> {
        self.post("/v1/publish", request)
    }

    /// `POST /v1/unpublish`: what is no longer published.
    pub fn unpublish(&self, request: &UnpublishRequest) -> Result<Vec<Publication>, ApiError> {
        self.post("/v1/unpublish", request)
    }

    /// `POST /v1/wait`: the interface that is ready.
    pub fn wait(&self, request: &WaitRequest) -> Result<Endpoint, ApiError> {
        let longer = Duration::from_millis(request.timeout_ms).saturating_add(TIMEOUT);
        self.clone().with_timeout(longer).post("/v1/wait", request)
    }

    /// `POST /v1/networks`.
    pub fn create_network(&self, spec: &rnet_model::NetworkSpec) -> Result<Network, ApiError> {
        self.patient().post("/v1/networks", spec)
    }

    /// `GET /v1/networks`.
    pub fn networks(&self) -> Result<Vec<Network>, ApiError> {
        self.get("/v1/networks")
    }

    /// `GET /v1/networks/{name}`: by name, id or unique id prefix.
    pub fn network(&self, name: &str) -> Result<Network, ApiError> {
        self.get(&format!("/v1/networks/{}", segment(name)?))
    }

    /// `DELETE /v1/networks/{name}`; `force` disconnects live endpoints first.
    pub fn remove_network(&self, name: &str, force: bool) -> Result<Network, ApiError> {
        self.patient().delete(&format!("/v1/networks/{}?force={force}", segment(name)?))
    }

    /// `PATCH /v1/networks/{name}`: the network as it is then.
    pub fn edit_network(&self, name: &str, edit: &NetworkEdit) -> Result<Network, ApiError> {
        self.with_body("PATCH", &format!("/v1/networks/{}", segment(name)?), edit)
    }

    /// `POST /v1/networks/prune`.
    pub fn prune_networks(&self, request: &PruneRequest) -> Result<PruneReply, ApiError> {
        self.patient().post("/v1/networks/prune", request)
    }

    /// `POST /v1/networks/{name}/connect`.
    pub fn connect_network(&self, name: &str, request: &NetworkConnect) -> Result<AttachReply, ApiError> {
        self.patient().post(&format!("/v1/networks/{}/connect", segment(name)?), request)
    }

    /// `POST /v1/networks/{name}/disconnect`.
    pub fn disconnect_network(&self, name: &str, request: &NetworkDisconnect) -> Result<Vec<Endpoint>, ApiError> {
        self.patient().post(&format!("/v1/networks/{}/disconnect", segment(name)?), request)
    }

    /// `GET /v1/allocations`.
    pub fn allocations(&self) -> Result<Vec<Allocation>, ApiError> {
        self.get("/v1/allocations")
    }

    /// `POST /v1/networks/{name}/ping`: pings between all running containers of a network.
    pub fn ping_network(&self, name: &str) -> Result<PingReport, ApiError> {
        self.patient().post(&format!("/v1/networks/{}/ping", segment(name)?), &Empty {})
    }

    /// `GET /v1/doctor`: what is wrong with the network of the host.
    pub fn doctor(&self) -> Result<DoctorReport, ApiError> {
        self.get("/v1/doctor")
    }

    /// `POST /v1/explain`: walks a path with a real packet.
    pub fn explain(&self, request: &ExplainRequest) -> Result<Explanation, ApiError> {
        self.post("/v1/explain", request)
    }

    /// `POST /v1/bridges`.
    pub fn create_bridge(&self, request: &BridgeRequest) -> Result<Bridge, ApiError> {
        self.post("/v1/bridges", request)
    }

    /// `GET /v1/bridges`.
    pub fn bridges(&self) -> Result<Vec<Bridge>, ApiError> {
        self.get("/v1/bridges")
    }

    /// `DELETE /v1/bridges/{name}`.
    pub fn remove_bridge(&self, name: &IfName) -> Result<Bridge, ApiError> {
        self.delete(&format!("/v1/bridges/{}", segment(name.as_str())?))
    }

    /// `POST /v1/sandboxes`; the same container id gives the same sandbox.
    pub fn create_sandbox(&self, request: &SandboxRequest) -> Result<Sandbox, ApiError> {
        self.post("/v1/sandboxes", request)
    }

    /// `GET /v1/sandboxes`.
    pub fn sandboxes(&self) -> Result<Vec<Sandbox>, ApiError> {
        self.get("/v1/sandboxes")
    }

    /// `POST /v1/sandboxes/{container_id}/connect`.
    pub fn connect_sandbox(&self, id: &ContainerName, request: &ConnectRequest) -> Result<Vec<Endpoint>, ApiError> {
        self.patient().post(&format!("/v1/sandboxes/{id}/connect"), request)
    }

    /// `DELETE /v1/sandboxes/{container_id}`: gives the namespace back. `forget` also drops the container's addresses
    /// and persistent attachments. An unknown container is success.
    pub fn release_sandbox(&self, id: &ContainerName, forget: bool) -> Result<Empty, ApiError> {
        self.patient().delete(&format!("/v1/sandboxes/{id}?forget={forget}"))
    }

    /// `POST /v1/links`: veth pairs between sandboxes, all or none.
    pub fn create_links(&self, requests: &[LinkRequest]) -> Result<Vec<Link>, ApiError> {
        self.post("/v1/links", &requests)
    }

    /// `GET /v1/links`.
    pub fn links(&self) -> Result<Vec<Link>, ApiError> {
        self.get("/v1/links")
    }

    /// `DELETE /v1/links/{id}`. An unknown id is success.
    pub fn remove_link(&self, id: EndpointId) -> Result<Empty, ApiError> {
        self.delete(&format!("/v1/links/{id}"))
    }

    /// `GET /v1/stats`.
    pub fn stats(&self) -> Result<Stats, ApiError> {
        self.get("/v1/stats")
    }

    /// `GET /v1/events`: what happens from now on.
    pub fn events(&self) -> Result<EventStream, ApiError> {
        self.events_of(&EventsQuery::default())
    }

    /// `GET /v1/events` with what is remembered.
    pub fn events_of(&self, query: &EventsQuery) -> Result<EventStream, ApiError> {
        let path = format!("/v1/events?{}", query.encode());
        self.stream(&path).map(EventStream::new)
    }

    /// `GET /v1/metrics`: text.
    pub fn metrics(&self) -> Result<String, ApiError> {
        let bytes = self.stream("/v1/metrics")?.collect::<Result<Vec<_>, _>>()?.concat();
        String::from_utf8(bytes).map_err(|e| ApiError::new(Kind::Bug, "netd's metrics are no text").because(&e))
    }

    /// `GET /v1/capture`: pcapng as it comes, and the id that [`Client::end_capture`] takes.
    pub fn capture(&self, query: &CaptureQuery) -> Result<(String, ByteStream), ApiError> {
        let stream = self.stream(&format!("/v1/capture?{}", query.encode()))?;
        let id = stream.header("rnet-capture").unwrap_or_default();
        Ok((id, stream))
    }

    /// `DELETE /v1/capture/{id}`: its stream ends with the statistics. An unknown id is success.
    pub fn end_capture(&self, id: &str) -> Result<Empty, ApiError> {
        self.delete(&format!("/v1/capture/{}", segment(id)?))
    }

    /// The body of a `GET` as it comes, inside the caller's runtime; not bounded in time.
    ///
    /// # Errors
    /// Netd's refusal, or that it cannot be reached.
    pub async fn fetch(&self, path: &str) -> Result<hyper::Response<Incoming>, ApiError> {
        self.request("GET", path, Bytes::new()).await
    }

    fn stream(&self, path: &str) -> Result<ByteStream, ApiError> {
        let runtime = runtime()?;
        let answer = runtime.block_on(async {
            let asked = tokio::time::timeout(self.timeout, self.fetch(path)).await;
            asked.unwrap_or_else(|_| {
                Err(ApiError::new(Kind::Retry, format!("netd did not answer GET {path} in {:?}", self.timeout)))
            })
        })?;
        Ok(ByteStream::new(runtime, answer, self.root.clone()))
    }

    /// The same with the time that plugins may take, unless another limit was given.
    fn patient(&self) -> Self {
        let timeout = if self.timeout == TIMEOUT { PLUGINS } else { self.timeout };
        self.clone().with_timeout(timeout)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.call("GET", path, Bytes::new())
    }

    fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.call("DELETE", path, Bytes::new())
    }

    fn post<B: Serialize + ?Sized, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ApiError> {
        self.with_body("POST", path, body)
    }

    fn with_body<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &B,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body)
            .map_err(|e| ApiError::new(Kind::Bug, format!("cannot encode the request of {path}")).because(&e))?;
        self.call(method, path, body.into())
    }

    fn call<T: DeserializeOwned>(&self, method: &str, path: &str, body: Bytes) -> Result<T, ApiError> {
        runtime()?.block_on(async {
            let exchange = async {
                let body = self.send(method, path, body).await?;
                let bytes = body.collect().await.map_err(|e| broken(&self.root, &e))?.to_bytes();
                serde_json::from_slice(&bytes).map_err(|e| {
                    ApiError::new(Kind::Bug, format!("netd's answer to {method} {path} cannot be read")).because(&e)
                })
            };
            tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| {
                Err(ApiError::new(Kind::Retry, format!("netd did not answer {method} {path} in {:?}", self.timeout)))
            })
        })
    }

    async fn send(&self, method: &str, path: &str, body: Bytes) -> Result<Incoming, ApiError> {
        self.request(method, path, body).await.map(hyper::Response::into_body)
    }

    async fn request(&self, method: &str, path: &str, body: Bytes) -> Result<hyper::Response<Incoming>, ApiError> {
        let socket = self.root.socket();
        let stream = UnixStream::connect(&socket).await.map_err(|e| unreachable_daemon(&self.root, &e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&self.root, &e))?;
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "netd")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| ApiError::new(Kind::Bug, format!("cannot make the request {method} {path}")).because(&e))?;
        let response = sender.send_request(request).await.map_err(|e| broken(&self.root, &e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response.into_body().collect().await.map_err(|e| broken(&self.root, &e))?.to_bytes();
        Err(serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| ApiError::new(Kind::Bug, format!("netd answered {method} {path} with {status}"))))
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, ApiError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|e| ApiError::new(Kind::Retry, "cannot start the client").because(&e))
}

/// A path segment that came from outside: only characters of names and ids, so that it cannot become another route.
fn segment(text: &str) -> Result<&str, ApiError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if text.is_empty() || text.starts_with('.') || !text.bytes().all(fine) {
        return Err(ApiError::new(Kind::Invalid, format!("{text:?} is neither a name nor an id")));
    }
    Ok(text)
}

pub(crate) fn unreachable_daemon(root: &Root, error: &std::io::Error) -> ApiError {
    let socket = root.socket();
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            ApiError::new(Kind::Denied, format!("not allowed to talk to netd at {}", socket.display()))
                .hint("run as root, or become a member of the group rnet")
        }
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            ApiError::new(Kind::Unavailable, format!("netd is not running ({})", socket.display()))
                .because(error)
                .hint(format!("start it: {}", root.start_command()))
        }
        _ => ApiError::new(Kind::Unavailable, format!("cannot reach netd at {}", socket.display())).because(error),
    }
}

pub(crate) fn broken(root: &Root, error: &dyn std::error::Error) -> ApiError {
    ApiError::new(Kind::Unavailable, format!("the connection to netd at {} broke off", root.socket().display()))
        .because(error)
        .hint("see netd's log; the request can be repeated")
}
