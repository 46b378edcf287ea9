//! `[metrics] listen`: `GET /metrics` over TCP, for a Prometheus on this machine.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rnet_api::ApiError;
use rnet_model::Kind;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::server::Context;

/// Most connections at once: a Prometheus uses one.
const CONNECTIONS: usize = 16;
/// Time a client has for its request, and for reading the answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Largest head of a request.
const HEAD_BYTES: usize = 8 * 1024;

/// Listens at the address and nowhere else, for as long as the runtime lives.
///
/// # Errors
/// When the address cannot be had.
pub(crate) async fn listen(address: SocketAddr, context: Arc<Context>) -> Result<(), ApiError> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        let kind = if e.kind() == std::io::ErrorKind::AddrInUse { Kind::Conflict } else { Kind::Invalid };
        ApiError::new(kind, format!("cannot serve metrics at {address}"))
            .because(&e)
            .hint("choose another one in netd.toml: [metrics] listen")
    })?;
    let local = address.ip().is_loopback();
    let router = Router::new()
        .route(
            "/metrics",
            get(
                move |State(c): State<Arc<Context>>, headers: HeaderMap| async move { page(&c, &headers, local).await },
            ),
        )
        .fallback(async || (StatusCode::NOT_FOUND, "the metrics are at /metrics\n"))
        .with_state(context);
    tokio::spawn(serve(listener, router));
    Ok(())
}

async fn serve(listener: TcpListener, router: Router) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(LIMIT)
            .max_buf_size(HEAD_BYTES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            if !matches!(tokio::time::timeout(LIMIT * 2, connection).await, Ok(Ok(()))) {
                tracing::debug!("a reader of metrics broke off");
            }
            drop(slot);
        });
    }
}

async fn page(context: &Context, headers: &HeaderMap, local: bool) -> Response {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    // A name would be one that a web page made point here.
    if local && !host.is_some_and(is_local) {
        return (StatusCode::MISDIRECTED_REQUEST, "ask by the address\n").into_response();
    }
    match super::gather(context).await {
        Ok(text) => ([(header::CONTENT_TYPE, super::MEDIA)], text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", error.chain())).into_response(),
    }
}

/// Whether a `Host` is this machine by a word nobody else gives out.
fn is_local(host: &str) -> bool {
    let name =
        host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(n, _)| n);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_are_this_machine() {
        for host in ["127.0.0.1", "127.0.0.1:9477", "localhost:9477", "[::1]:9477", "[::1]"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["", "evil.example", "evil.example:9477", "localhost.evil.example", "10.0.0.1:9477"] {
            assert!(!is_local(host), "{host}");
        }
    }
}
