//! HTTP/1.1 and JSON over the unix socket: routes, limits, errors as JSON.
//!
//! Owns the way of a request to the engine's [`Handle`] and back. Refuses: deciding anything about networks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{MatchedPath, Path, Query, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use axum::{Extension, Router};
use futures_util::stream;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rnet_api::{
    ApiError, AttachRequest, BridgeRequest, CaptureQuery, CniAdd, CniCheck, CniDel, CniGc, CniId, CniNetns, CniStatus,
    ConnectRequest, DetachRequest, Empty, EventsQuery, ExplainRequest, Identity, LinkRequest, NetworkConnect,
    NetworkDisconnect, NetworkEdit, PruneRequest, PublishRequest, SandboxRequest, UnpublishRequest, WaitRequest,
};
use rnet_model::{ContainerName, ContainerRef, EndpointId, Engine, IfName, Kind, NetworkSpec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::auth::{Guard, Trust};
use crate::capture::{Begun, Captures};
use crate::config;
use crate::diagnose;
use crate::engine::{Handle, worked};
use crate::journal::Journal;
use crate::metrics::Registry;
use crate::resolve::{Resolver, Target};

/// What a request can reach.
#[derive(Debug)]
pub(crate) struct Context {
    /// The engine.
    pub(crate) engine: Handle,
    /// From names to containers.
    pub(crate) resolver: Resolver,
    /// Limits.
    pub(crate) api: config::Api,
    /// Events.
    pub(crate) journal: Journal,
    /// Captures that run.
    pub(crate) captures: Captures,
    /// What is counted.
    pub(crate) metrics: Registry,
    /// When netd started.
    pub(crate) started: Instant,
}

type Shared = Arc<Context>;

impl Context {
    /// An attach to a container that is not there: what is called so may be a bridge, the words the wrong way round.
    async fn swapped(&self, request: &AttachRequest, error: ApiError) -> ApiError {
        let (hostif, container) = (&request.spec.hostif, &request.spec.container);
        let ContainerRef::Any(name) = container else { return error };
        let Ok(bridge) = name.as_str().parse() else { return error };
        if error.kind != Kind::Missing || !self.engine.is_bridge(bridge).await {
            return error;
        }
        error.hint(format!("{container} is a bridge, and the bridge comes first: rnet attach {container} {hostif}"))
    }
}

impl Context {
    /// The namespace of a CNI runtime's container.
    async fn of_cni(&self, id: &CniId, netns: &CniNetns) -> Result<Target, ApiError> {
        let name = id.container_id.clone();
        let identity = Identity { engine: Engine::Cni, id: name.clone(), name };
        let reference = ContainerRef::NetnsPath(netns.path.clone());
        let target = self.resolver.resolve(&reference, Some(&identity)).await?;
        if target.netns.id().ino != netns.inode {
            let path = netns.path.display();
            return Err(ApiError::new(Kind::Invalid, format!("{path} is another network namespace for netd"))
                .hint("netd and the runtime have to see the same files below /run; a path below /proc/self is none"));
        }
        Ok(target)
    }
}

/// Time a client has for the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Time a client has for the body.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// Time open requests have when the daemon stops.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// The id of a capture, for ending it.
const CAPTURE: header::HeaderName = header::HeaderName::from_static("rnet-capture");
/// Largest head of a request.
const HEAD_BYTES: usize = 16 * 1024;

/// Serves until `stop` resolves, then lets open requests end.
pub(crate) async fn serve(listener: UnixListener, guard: Guard, context: Shared, stop: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(context.api.connections));
    let [owner, member] = [Trust::Owner, Trust::Member].map(|trust| router(context.clone(), trust));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = &mut stop => break,
        };
        let (stream, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: the connections that are open will end.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let router = match stream
            .peer_cred()
            .map_err(|e| ApiError::new(Kind::Denied, "unknown peer").because(&e))
            .and_then(|peer| guard.admit(peer).map(|()| guard.trust(peer)))
        {
            Ok(Trust::Owner) => owner.clone(),
            Ok(Trust::Member) => member.clone(),
            Err(error) => refusing(error),
        };
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke off");
            }
            drop(slot);
        });
    }
    if tokio::time::timeout(STOP_LIMIT, graceful.shutdown()).await.is_err() {
        tracing::debug!("requests were still open at the end");
    }
}

async fn accept(
    listener: &UnixListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

/// Every route: method, path, handler. `rnet_api::openapi::ROUTES` documents the same ones, which a test checks.
fn table() -> Vec<(Method, &'static str, MethodRouter<Shared>)> {
    vec![
        (Method::GET, "/v1/openapi.json", get(openapi)),
        (Method::GET, "/v1/version", get(async |State(c): State<Shared>| answer(c.engine.version().await))),
        (Method::GET, "/v1/events", get(events)),
        (Method::GET, "/v1/stats", get(stats)),
        (Method::GET, "/v1/metrics", get(metrics)),
        (Method::GET, "/v1/capture", get(capture)),
        (Method::DELETE, "/v1/capture/{id}", delete(end_capture)),
        (Method::GET, "/v1/attachments", get(async |State(c): State<Shared>| answer(c.engine.endpoints().await))),
        (Method::POST, "/v1/attachments", post(attach)),
        (
            Method::GET,
            "/v1/attachments/{id}",
            get(async |State(c): State<Shared>, Path(id): Path<String>| answer(c.engine.endpoint(id).await)),
        ),
        (Method::POST, "/v1/detach", post(detach)),
        (Method::POST, "/v1/wait", post(wait)),
        (Method::GET, "/v1/networks", get(async |State(c): State<Shared>| answer(c.engine.networks().await))),
        (Method::POST, "/v1/networks", post(create_network)),
        (
            Method::GET,
            "/v1/networks/{name}",
            get(async |State(c): State<Shared>, Path(name): Path<String>| answer(c.engine.network(name).await)),
        ),
        (Method::PATCH, "/v1/networks/{name}", patch(edit_network)),
        (Method::POST, "/v1/networks/prune", also_a_name("prune", post(prune_networks))),
        (Method::DELETE, "/v1/networks/{name}", delete(remove_network)),
        (Method::POST, "/v1/networks/{name}/connect", post(connect)),
        (Method::POST, "/v1/networks/{name}/disconnect", post(disconnect)),
        (
            Method::POST,
            "/v1/networks/{name}/ping",
            post(async |State(c): State<Shared>, Path(name): Path<String>| {
                answer(diagnose::ping(&c.engine, name).await)
            }),
        ),
        (Method::GET, "/v1/doctor", get(async |State(c): State<Shared>| answer(diagnose::doctor(&c.engine).await))),
        (Method::POST, "/v1/explain", post(explain)),
        (Method::GET, "/v1/ports", get(async |State(c): State<Shared>| answer(c.engine.publications().await))),
        (Method::POST, "/v1/publish", post(publish)),
        (Method::POST, "/v1/unpublish", post(unpublish)),
        (Method::GET, "/v1/allocations", get(async |State(c): State<Shared>| answer(c.engine.allocations().await))),
        (Method::GET, "/v1/bridges", get(async |State(c): State<Shared>| answer(c.engine.bridges().await))),
        (Method::POST, "/v1/bridges", post(create_bridge)),
        (Method::DELETE, "/v1/bridges/{name}", delete(remove_bridge)),
        (Method::GET, "/v1/sandboxes", get(async |State(c): State<Shared>| answer(c.engine.sandboxes().await))),
        (Method::POST, "/v1/sandboxes", post(create_sandbox)),
        (Method::POST, "/v1/sandboxes/{container_id}/connect", post(connect_sandbox)),
        (Method::DELETE, "/v1/sandboxes/{container_id}", delete(release_sandbox)),
        (Method::POST, "/v1/cni/add", post(cni_add)),
        (Method::POST, "/v1/cni/del", post(cni_del)),
        (Method::POST, "/v1/cni/check", post(cni_check)),
        (Method::POST, "/v1/cni/gc", post(cni_gc)),
        (Method::POST, "/v1/cni/status", post(cni_status)),
        (Method::GET, "/v1/links", get(async |State(c): State<Shared>| answer(c.engine.links().await))),
        (Method::POST, "/v1/links", post(create_links)),
        (Method::DELETE, "/v1/links/{id}", delete(remove_link)),
    ]
}

fn router(context: Shared, trust: Trust) -> Router {
    let routes = table().into_iter().fold(Router::new(), |router, (_, path, route)| router.route(path, route));
    let unknown = async |request: Request| {
        let text = format!("there is no {} {}", request.method(), request.uri().path());
        refuse(&ApiError::new(Kind::Missing, text).hint("the routes are in /v1/openapi.json"))
    };
    let method = async |request: Request| {
        let text = format!("{} does not take {}", request.uri().path(), request.method());
        (StatusCode::METHOD_NOT_ALLOWED, json(&ApiError::new(Kind::Invalid, text))).into_response()
    };
    routes
        .fallback(unknown)
        .method_not_allowed_fallback(method)
        .layer(from_fn(limit_and_time(context.api.body_limit, context.metrics.clone())))
        .layer(Extension(trust))
        .with_state(context)
}

/// Answers everything with one refusal.
fn refusing(error: ApiError) -> Router {
    Router::new().fallback(async move || refuse(&error))
}

/// Reads the body up to its limit before anything looks at it, and says how long the engine worked
/// (`server-timing`, W3C Server Timing, milliseconds).
fn limit_and_time(
    limit: usize,
    metrics: Registry,
) -> impl Fn(Request, Next) -> futures_util::future::BoxFuture<'static, Response> + Clone {
    move |request, next| {
        let metrics = metrics.clone();
        Box::pin(async move {
            let operation = operation(&request);
            let (head, body) = request.into_parts();
            let bytes = match tokio::time::timeout(BODY_LIMIT, axum::body::to_bytes(body, limit)).await {
                Ok(Ok(bytes)) => bytes,
                Err(_) => {
                    let text = format!("the request body did not come within {BODY_LIMIT:?}");
                    return (StatusCode::REQUEST_TIMEOUT, json(&ApiError::new(Kind::Invalid, text))).into_response();
                }
                Ok(Err(error)) => {
                    let text = format!("the request body is longer than {limit} bytes, or broke off");
                    let error = ApiError::new(Kind::Invalid, text).because(&error);
                    return (StatusCode::PAYLOAD_TOO_LARGE, json(&error)).into_response();
                }
            };
            let begun = Instant::now();
            let (mut response, took) = worked(next.run(Request::from_parts(head, Body::from(bytes)))).await;
            if response.status() == StatusCode::BAD_REQUEST && !is_json(&response) {
                // The router's own words about a path that is no text.
                response = refuse(&ApiError::new(Kind::Invalid, "the path of the request cannot be understood"));
            }
            if let Some(operation) = operation {
                operation.count(&metrics, begun.elapsed(), response.status());
            }
            let timing = format!("engine;dur={:.4}", took.as_secs_f64() * 1e3);
            if let Ok(value) = timing.parse() {
                response.headers_mut().insert("server-timing", value);
            }
            response
        })
    }
}

/// A request that makes or removes interfaces, as metrics name it.
struct Operation {
    seconds: &'static str,
    failures: &'static str,
    name: &'static str,
}

impl Operation {
    fn count(&self, metrics: &Registry, took: Duration, status: StatusCode) {
        let labels = [("operation", self.name)];
        // Made at 0 with the first success, so that the first failure is an increase.
        let failures = metrics.counter(self.failures, "Requests that were refused or failed", &labels);
        if status.is_success() {
            metrics.histogram(self.seconds, "How long requests took that were done", &labels).observe(took);
        } else {
            failures.add(1);
        }
    }
}

fn operation(request: &Request) -> Option<Operation> {
    let path = request.extensions().get::<MatchedPath>()?.as_str();
    let attach = |name| Operation { seconds: "rnet_attach_seconds", failures: "rnet_attach_failures_total", name };
    let detach = |name| Operation { seconds: "rnet_detach_seconds", failures: "rnet_detach_failures_total", name };
    match (request.method().as_str(), path) {
        ("POST", "/v1/attachments") => Some(attach("attach")),
        ("POST", "/v1/networks/{name}/connect") => Some(attach("connect")),
        ("POST", "/v1/sandboxes/{container_id}/connect") => Some(attach("run")),
        ("POST", "/v1/cni/add") => Some(attach("cni")),
        ("POST", "/v1/detach") => Some(detach("detach")),
        ("POST", "/v1/networks/{name}/disconnect") => Some(detach("disconnect")),
        ("DELETE", "/v1/sandboxes/{container_id}") => Some(detach("run")),
        ("POST", "/v1/cni/del") => Some(detach("cni")),
        _ => None,
    }
}

fn is_json(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json")
}

/// A value as a JSON body.
fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot encode an answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn refuse(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    tracing::debug!(error = error.chain(), "refused");
    (status, json(error)).into_response()
}

fn answer(result: Result<impl Serialize, ApiError>) -> Response {
    match result {
        Ok(value) => json(&value),
        Err(error) => refuse(&error),
    }
}

/// A request body as its type; what is wrong with it is named with line and column.
fn parse<T: DeserializeOwned>(route: &str, body: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|e| {
        let why = if body.is_empty() { "it is empty".to_owned() } else { in_json(&e.to_string()) };
        ApiError::new(Kind::Invalid, format!("the body is not what {route} takes: {why}"))
            .hint("the schemas are in /v1/openapi.json")
    })
}

/// serde speaks of the types of this program; a client knows objects and arrays.
fn in_json(said: &str) -> String {
    for (word, instead) in
        [("expected struct ", "expected an object"), ("expected enum ", "expected one of its values")]
    {
        let Some((before, rest)) = said.split_once(word) else { continue };
        let rest = rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        let rest = match rest.strip_prefix(" with ").and_then(|counted| counted.split_once(" element")) {
            Some((_, after)) => after.strip_prefix('s').unwrap_or(after),
            None => rest,
        };
        let before = match before.starts_with("invalid length ") {
            true => "an array",
            false => before.trim_end_matches(", "),
        };
        return format!("{before}, {instead}{rest}");
    }
    said.replace("a sequence", "an array").replace("sequence", "array").replace("map", "object")
}

/// A path segment as its type.
fn segment<T: std::str::FromStr<Err = rnet_model::InvalidInput>>(text: &str) -> Result<T, ApiError> {
    text.parse().map_err(ApiError::from)
}

async fn openapi() -> Response {
    json(&rnet_api::openapi::document())
}

async fn attach(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async {
        let request: AttachRequest = parse("POST /v1/attachments", &body)?;
        let target = match c.resolver.resolve(&request.spec.container, request.identity.as_ref()).await {
            Ok(target) => target,
            Err(error) => return Err(c.swapped(&request, error).await),
        };
        c.engine.attach(request, target).await
    };
    answer(work.await)
}

async fn detach(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async { c.engine.detach(parse::<DetachRequest>("POST /v1/detach", &body)?).await };
    answer(work.await)
}

async fn publish(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async { c.engine.publish(parse::<PublishRequest>("POST /v1/publish", &body)?).await };
    answer(work.await)
}

async fn unpublish(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async { c.engine.unpublish(parse::<UnpublishRequest>("POST /v1/unpublish", &body)?).await };
    answer(work.await)
}

async fn wait(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async { c.engine.wait(parse::<WaitRequest>("POST /v1/wait", &body)?).await };
    answer(work.await)
}

async fn create_network(State(c): State<Shared>, Extension(trust): Extension<Trust>, body: Bytes) -> Response {
    let work = async {
        let spec: NetworkSpec = parse("POST /v1/networks", &body)?;
        if spec.conflist.is_some() && trust == Trust::Member {
            // Some plugins write the files that their configuration names.
            return Err(ApiError::new(Kind::Denied, "only root may make a network of CNI plugins")
                .hint("they run as root, and do what the list says; members of the group may use the network"));
        }
        c.engine.create_network(spec).await
    };
    answer(work.await)
}

/// Query parameters; an unknown one is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Flags {
    force: bool,
    forget: bool,
}

type MaybeFlags = Result<Query<Flags>, axum::extract::rejection::QueryRejection>;

fn flags(query: MaybeFlags) -> Result<Flags, ApiError> {
    query.map(|Query(flags)| flags).map_err(|e| ApiError::new(Kind::Invalid, format!("query: {}", e.body_text())))
}

async fn remove_network(State(c): State<Shared>, Path(name): Path<String>, query: MaybeFlags) -> Response {
    let work = async { c.engine.remove_network(name, flags(query)?.force).await };
    answer(work.await)
}

async fn edit_network(State(c): State<Shared>, Path(name): Path<String>, body: Bytes) -> Response {
    let work = async { c.engine.edit_network(name, parse::<NetworkEdit>("PATCH /v1/networks/{name}", &body)?).await };
    answer(work.await)
}

async fn prune_networks(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async { c.engine.prune_networks(parse::<PruneRequest>("POST /v1/networks/prune", &body)?).await };
    answer(work.await)
}

/// A word of the API that may be the name of a network too.
fn also_a_name(word: &'static str, route: MethodRouter<Shared>) -> MethodRouter<Shared> {
    let name = || Path(word.to_owned());
    route
        .get(async move |State(c): State<Shared>| answer(c.engine.network(word.to_owned()).await))
        .patch(async move |c: State<Shared>, body: Bytes| edit_network(c, name(), body).await)
        .delete(async move |c: State<Shared>, query: MaybeFlags| remove_network(c, name(), query).await)
}

async fn connect(State(c): State<Shared>, Path(name): Path<String>, body: Bytes) -> Response {
    let work = async {
        let request: NetworkConnect = parse("POST /v1/networks/{name}/connect", &body)?;
        let target = c.resolver.resolve(&request.container, request.identity.as_ref()).await?;
        c.engine.connect(name, request, target).await
    };
    answer(work.await)
}

async fn disconnect(State(c): State<Shared>, Path(name): Path<String>, body: Bytes) -> Response {
    let work = async {
        c.engine.disconnect(name, parse::<NetworkDisconnect>("POST /v1/networks/{name}/disconnect", &body)?).await
    };
    answer(work.await)
}

async fn explain(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async {
        let request: ExplainRequest = parse("POST /v1/explain", &body)?;
        diagnose::explain(&c.engine, &c.resolver, request).await
    };
    answer(work.await)
}

async fn create_bridge(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async { c.engine.create_bridge(parse::<BridgeRequest>("POST /v1/bridges", &body)?).await };
    answer(work.await)
}

async fn remove_bridge(State(c): State<Shared>, Path(name): Path<String>) -> Response {
    let work = async { c.engine.remove_bridge(segment::<IfName>(&name)?).await };
    answer(work.await)
}

async fn create_sandbox(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async { c.engine.create_sandbox(parse::<SandboxRequest>("POST /v1/sandboxes", &body)?).await };
    answer(work.await)
}

async fn connect_sandbox(State(c): State<Shared>, Path(id): Path<String>, body: Bytes) -> Response {
    let work = async {
        c.engine
            .connect_sandbox(
                segment::<ContainerName>(&id)?,
                parse::<ConnectRequest>("POST /v1/sandboxes/{container_id}/connect", &body)?,
            )
            .await
    };
    answer(work.await)
}

async fn release_sandbox(State(c): State<Shared>, Path(id): Path<String>, query: MaybeFlags) -> Response {
    let work = async { c.engine.release_sandbox(segment::<ContainerName>(&id)?, flags(query)?.forget).await };
    answer(work.await)
}

async fn cni_add(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async {
        let request: CniAdd = parse("POST /v1/cni/add", &body)?;
        let target = c.of_cni(&request.id, &request.netns).await?;
        c.engine.cni_add(request, target).await
    };
    answer(work.await)
}

async fn cni_del(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async { c.engine.cni_del(parse::<CniDel>("POST /v1/cni/del", &body)?).await };
    answer(work.await)
}

async fn cni_check(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async {
        let request: CniCheck = parse("POST /v1/cni/check", &body)?;
        let target = c.of_cni(&request.id, &request.netns).await?;
        c.engine.cni_check(request, target).await
    };
    answer(work.await)
}

async fn cni_gc(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async { c.engine.cni_gc(parse::<CniGc>("POST /v1/cni/gc", &body)?).await };
    answer(work.await)
}

async fn cni_status(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async { c.engine.cni_status(parse::<CniStatus>("POST /v1/cni/status", &body)?).await };
    answer(work.await)
}

async fn create_links(State(c): State<Shared>, body: Bytes) -> Response {
    let work = async { c.engine.create_links(parse::<Vec<LinkRequest>>("POST /v1/links", &body)?).await };
    answer(work.await)
}

async fn remove_link(State(c): State<Shared>, Path(id): Path<String>) -> Response {
    let work = async { c.engine.remove_link(segment::<EndpointId>(&id)?).await };
    answer(work.await)
}

/// Events as lines of JSON.
async fn events(State(c): State<Shared>, query: Result<Query<EventsQuery>, QueryRejection>) -> Response {
    let lines = queried("GET /v1/events", query).and_then(|query| c.journal.lines(&query));
    match lines {
        Ok(lines) => ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response(),
        Err(error) => refuse(&error),
    }
}

async fn stats(State(c): State<Shared>) -> Response {
    answer(crate::stats::collect(&c.engine, &c.resolver).await)
}

async fn metrics(State(c): State<Shared>) -> Response {
    match crate::metrics::gather(&c).await {
        Ok(text) => ([(header::CONTENT_TYPE, crate::metrics::MEDIA)], text).into_response(),
        Err(error) => refuse(&error),
    }
}

async fn capture(State(c): State<Shared>, query: Result<Query<CaptureQuery>, QueryRejection>) -> Response {
    let work = async { c.captures.begin(queried("GET /v1/capture", query)?, &c.resolver).await };
    let Begun { id, pieces } = match work.await {
        Ok(begun) => begun,
        Err(error) => return refuse(&error),
    };
    let pieces = stream::unfold(pieces, async |mut pieces| Some((Ok::<_, Infallible>(pieces.recv().await?), pieces)));
    let kind = header::HeaderValue::from_static("application/x-pcapng");
    ([(header::CONTENT_TYPE, kind), (CAPTURE, id.into())], Body::from_stream(pieces)).into_response()
}

async fn end_capture(State(c): State<Shared>, Path(id): Path<String>) -> Response {
    if let Ok(id) = id.parse() {
        c.captures.end(id);
    }
    json(&Empty {})
}

/// A query string as its type.
fn queried<T>(route: &str, query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    query.map(|Query(query)| query).map_err(|e| {
        ApiError::new(Kind::Invalid, format!("the query is not what {route} takes: {}", e.body_text()))
            .hint("the routes are in /v1/openapi.json")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_wrong_body_is_told_in_the_words_of_json() {
        let said = |body: &'static str| {
            let parsed = parse::<NetworkSpec>("POST /v1/networks", &Bytes::from_static(body.as_bytes()));
            parsed.expect_err("it is no network").message
        };
        for (body, wrong) in [
            ("{}", "missing field `name`"),
            ("[]", "an array, expected an object"),
            ("7", "invalid type: integer `7`, expected an object at line 1"),
            ("{", "EOF while parsing an object"),
        ] {
            let said = said(body);
            let begins = format!("the body is not what POST /v1/networks takes: {wrong}");
            assert!(said.starts_with(&begins), "{body}: {said}");
        }
    }

    #[test]
    fn every_route_is_documented_and_every_document_is_a_route() {
        let served: BTreeSet<(String, &str)> =
            table().into_iter().map(|(method, path, _)| (method.as_str().to_lowercase(), path)).collect();
        let documented: BTreeSet<(String, &str)> =
            rnet_api::openapi::ROUTES.iter().map(|r| (r.method.to_owned(), r.path)).collect();
        assert_eq!(served, documented);
    }
}
