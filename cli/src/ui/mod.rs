//! `rnet ui`: one page for a browser on this machine, and the API's answers it is drawn from.
//!
//! Owns: the little server and the page. Refuses: changing anything (`GET` only, of listed paths), and everybody who
//! does not know the token of this run or comes by a name somebody else gives out (DNS rebinding).

mod opener;

use std::convert::Infallible;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rnet_api::{ApiError, Client};
use rnet_model::Kind;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::{Context, output};

/// Show the networks, containers and traffic of this machine in a browser
///
/// Serves one page on 127.0.0.1 until Ctrl-C, and prints its address. The address has a token in it: who does not know
/// it sees nothing. The page only looks; it needs nothing from other hosts.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet ui --open
  rnet ui --port 0                          any free port
  ssh -L 8477:127.0.0.1:8477 HOST rnet ui   of another machine; open the printed address here")]
pub(crate) struct UiArgs {
    /// Port on 127.0.0.1; 0 = any free one
    #[arg(short, long, value_name = "PORT", default_value_t = 8477)]
    port: u16,

    /// Open it in the desktop's browser
    #[arg(long)]
    open: bool,
}

/// The page; `@NONCE@` stands for a word that is another one with every answer.
const PAGE: &str = include_str!("page.html");
/// What the page may ask for, as `/v1/NAME` of netd.
const SHOWN: [&str; 7] = ["version", "stats", "networks", "attachments", "links", "ports", "events"];
/// Most connections at once: a browser uses six.
const CONNECTIONS: usize = 64;
/// Time a client has for the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
const HEAD_BYTES: usize = 16 * 1024;

type Body = Either<Full<Bytes>, Incoming>;

/// What the server knows.
#[derive(Debug)]
struct Server {
    client: Client,
    token: String,
    instance: Bytes,
}

pub(crate) fn ui(args: &UiArgs, ctx: &Context) -> Result<u8, ApiError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| ApiError::new(Kind::Retry, "cannot start the server").because(&e))?;
    runtime.block_on(run(args, ctx))
}

async fn run(args: &UiArgs, ctx: &Context) -> Result<u8, ApiError> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port))).await.map_err(|e| {
        let error = ApiError::new(Kind::Conflict, format!("cannot listen on 127.0.0.1:{}", args.port)).because(&e);
        error.hint("another rnet ui may be running; --port 0 takes any free port")
    })?;
    let fail = |e: std::io::Error| ApiError::new(Kind::Retry, "cannot start the server").because(&e);
    let port = listener.local_addr().map_err(fail)?.port();
    let token = random().map_err(fail)?;
    let instance = serde_json::json!({"socket": ctx.root.socket(), "version": env!("CARGO_PKG_VERSION")});
    let url = format!("http://127.0.0.1:{port}/{token}/");
    let instance = Bytes::from(instance.to_string());
    let server = Arc::new(Server { client: ctx.client(), token, instance });
    if ctx.json {
        output::json_line(&serde_json::json!({"url": url, "port": port}))?;
    } else {
        output::line(&url)?;
        output::remark("Ctrl-C ends it");
    }
    let opened = if args.open { Some(opener::open(&url)?) } else { None };
    tokio::select! {
        () = serve(listener, server) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    drop(opened);
    Ok(0)
}

async fn serve(listener: TcpListener, server: Arc<Server>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: the connections that are open will end.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let server = server.clone();
        let service = hyper::service::service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(&request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // A browser that goes away is no news.
            let _ = connection.await;
            drop(slot);
        });
    }
}

impl Server {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let mut response = self.route(request).await;
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CACHE_CONTROL, "no-store"),
            // The token is in the address.
            (header::REFERRER_POLICY, "no-referrer"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
            (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }

    async fn route(&self, request: &Request<Incoming>) -> Response<Body> {
        if !Self::is_host(request.headers().get(header::HOST)) {
            return text(StatusCode::MISDIRECTED_REQUEST, "ask for 127.0.0.1\n");
        }
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        }
        let path = request.uri().path();
        let Some((token, rest)) = path.strip_prefix('/').and_then(|p| p.split_once('/')) else {
            return text(StatusCode::NOT_FOUND, "the address is the one rnet ui printed\n");
        };
        if !same(token, &self.token) {
            return text(StatusCode::FORBIDDEN, "the address is the one rnet ui printed\n");
        }
        match rest.strip_prefix("api/") {
            Some("instance") => full(StatusCode::OK, "application/json", self.instance.clone()),
            Some(name) if SHOWN.contains(&name) => self.of_netd(name, request.uri().query()).await,
            None if rest.is_empty() => page(),
            _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
        }
    }

    /// A web page elsewhere can make its own name point here; a browser says then that name.
    fn is_host(host: Option<&HeaderValue>) -> bool {
        let host = host.and_then(|h| h.to_str().ok()).and_then(|h| h.rsplit_once(':'));
        host.is_some_and(|(name, port)| {
            // At the far end of an ssh tunnel the port is another one.
            matches!(name, "127.0.0.1" | "localhost") && port.parse::<u16>().is_ok()
        })
    }

    async fn of_netd(&self, name: &str, query: Option<&str>) -> Response<Body> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'&' | b'%' | b'-' | b'.' | b':' | b'_');
        let path = match query {
            Some(query) if query.bytes().all(fine) => format!("/v1/{name}?{query}"),
            Some(_) => return text(StatusCode::BAD_REQUEST, "the query has strange characters\n"),
            None => format!("/v1/{name}"),
        };
        match self.client.fetch(&path).await {
            Ok(answer) => {
                let (parts, body) = answer.into_parts();
                let kind = parts.headers.get(header::CONTENT_TYPE).cloned();
                let mut response = Response::new(Either::Right(body));
                response.headers_mut().extend(kind.map(|kind| (header::CONTENT_TYPE, kind)));
                response
            }
            Err(error) => {
                let status = StatusCode::from_u16(error.kind.http_status()).unwrap_or(StatusCode::BAD_GATEWAY);
                let body = serde_json::to_vec(&error).unwrap_or_default();
                full(status, "application/json", Bytes::from(body))
            }
        }
    }
}

/// The page. Its own script and style are known by a word; everything else, and every text as markup, is refused.
fn page() -> Response<Body> {
    let Ok(nonce) = random() else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "there is no randomness\n");
    };
    let mut response = full(StatusCode::OK, "text/html; charset=utf-8", Bytes::from(PAGE.replace("@NONCE@", &nonce)));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    );
    if let Ok(policy) = policy.parse() {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    full(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn full(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Whether two words are the same, in a time that does not tell how much of them is.
fn same(given: &str, wanted: &str) -> bool {
    given.len() == wanted.len() && given.bytes().zip(wanted.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// 128 random bits in hexadecimal.
fn random() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_are_this_machine() {
        let host = |text: &str| Server::is_host(HeaderValue::from_str(text).ok().as_ref());
        assert!(host("127.0.0.1:8477") && host("localhost:8477") && host("localhost:9000"), "also through a tunnel");
        for wrong in ["", "127.0.0.1", "evil.example:8477", "127.0.0.1.evil.example:8477", "localhost:", "localhost:x"]
        {
            assert!(!host(wrong), "{wrong}");
        }
        assert!(!Server::is_host(None));
    }

    #[test]
    fn words_are_compared_whole() {
        assert!(same("abc", "abc") && !same("abd", "abc") && !same("ab", "abc") && !same("", "abc"));
    }

    /// What the page is made of stays inside it, and text never becomes markup.
    #[test]
    fn the_page_is_alone() {
        for wrong in ["http://", "https://", "src=", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"] {
            let found: Vec<&str> = PAGE.lines().filter(|line| line.contains(wrong)).collect();
            let only_names = found.iter().all(|line| line.contains("http://www.w3.org/2000/svg"));
            assert!(only_names, "{wrong}: {found:?}");
        }
        assert_eq!(PAGE.matches("<script").count(), PAGE.matches("<script nonce=\"@NONCE@\">").count());
        assert_eq!(PAGE.matches("<style").count(), PAGE.matches("<style nonce=\"@NONCE@\">").count());
        assert!(!PAGE.contains(" style=\"") && !PAGE.contains(" onclick="));
    }
}
