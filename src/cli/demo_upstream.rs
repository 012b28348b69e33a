//! The application behind the demo: it shows the headers it receives, so that one can see what nullpass tells it.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread::JoinHandle;

use askama::Template;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::tasks::Tasks;

/// A running application; it ends with [`DemoUpstream::stop`], or with the process.
#[derive(Debug)]
pub(super) struct DemoUpstream {
    address: SocketAddr,
    tasks: Tasks,
    thread: JoinHandle<()>,
}

impl DemoUpstream {
    /// Starts it on a free port of loopback, on a thread of its own.
    pub(super) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tasks = Tasks::new();
        let its_tasks = tasks.clone();
        let thread = std::thread::Builder::new().name("demo".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(serve(listener, its_tasks)) {
                tracing::error!(%error, "the page behind the demo ended");
            }
        })?;
        Ok(Self { address, tasks, thread })
    }

    /// Where it listens.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, and what it is at.
    pub(super) fn stop(self) {
        self.tasks.stop();
        if self.thread.join().is_err() {
            tracing::error!("the page behind the demo broke");
        }
    }
}

async fn serve(listener: TcpListener, tasks: Tasks) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let stream = tokio::select! {
            () = tasks.stopped() => return Ok(()),
            accepted = listener.accept() => accepted?.0,
        };
        tasks.spawn(async move {
            let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request)) });
            if let Err(error) = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection to the page behind the demo broke");
            }
        });
    }
}

/// What it shows. Askama escapes every value: what a client sends in a header is only ever text.
#[derive(Debug, Template)]
#[template(
    ext = "html",
    source = r#"<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>nullpass demo</title>
<style>
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.25rem .75rem;border-bottom:1px solid #8884}
td{overflow-wrap:anywhere}tr.told{background:#3b5bdb2e}nav a{margin-right:1rem}code{font-family:ui-monospace,monospace}
</style></head>
<body>
<h1>{{ title }}</h1>
<p>This page is the application. It has no login of its own: it believes the highlighted headers, which nullpass sets
and nobody else can.</p>
<nav aria-label="Pages"><a href="/">protected</a><a href="/public/">public</a><a href="/admin/">two-factor</a><a href="/headers">headers</a><a href="/_auth/logout">sign out</a></nav>
<h2>The request it received</h2>
<p><code>{{ method }} {{ target }}</code></p>
<table><thead><tr><th scope="col">header</th><th scope="col">value</th></tr></thead><tbody>
{% for row in rows %}<tr{% if row.told %} class="told"{% endif %}><td><code>{{ row.name }}</code></td><td><code>{{ row.value }}</code></td></tr>
{% endfor %}</tbody></table>
<h2>To try</h2>
<ul><li>Look at this page without a session: in a private window, or with <code>curl</code>.</li>
<li>Send <code>X-Forwarded-User: somebody</code> yourself: it does not arrive.</li>
<li>POST a body to any path: it comes back.</li></ul>
</body></html>
"#
)]
struct Page {
    title: &'static str,
    method: String,
    target: String,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    value: String,
    told: bool,
}

/// A page or JSON for reading methods; for others the body as it comes.
fn answer(request: Request<Incoming>) -> Response<Either<Full<Bytes>, Incoming>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        // As text, whatever it was sent as: a page that was posted must not become a page of this origin.
        return with_type("text/plain; charset=utf-8", Either::Right(request.into_body()));
    }
    let (body, content_type) = show(&request);
    with_type(content_type, Either::Left(Full::new(Bytes::from(body))))
}

fn show<B>(request: &Request<B>) -> (String, &'static str) {
    let headers = request.headers();
    let path = request.uri().path();
    if path == "/headers" && wants_json(headers) {
        let rows: Vec<_> = rows(headers).into_iter().map(|row| [row.name, row.value]).collect();
        let json = serde_json::json!({ "method": request.method().as_str(), "target": request.uri().to_string(), "headers": rows });
        return (json.to_string(), "application/json");
    }
    let title = if path.starts_with("/public/") {
        "A public page"
    } else if path.starts_with("/admin/") {
        "A page that needs a second factor"
    } else {
        "A protected page"
    };
    let page = Page { title, method: request.method().to_string(), target: request.uri().to_string(), rows: rows(headers) };
    match page.render() {
        Ok(html) => (html, "text/html; charset=utf-8"),
        Err(error) => (format!("the page can't be shown: {error}\n"), "text/plain; charset=utf-8"),
    }
}

fn rows(headers: &HeaderMap) -> Vec<Row> {
    let mut rows: Vec<_> = headers
        .iter()
        .map(|(name, value)| Row {
            name: name.to_string(),
            value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
            told: told(name.as_str()),
        })
        .collect();
    // Ours first, then as they came.
    rows.sort_by_key(|row| !row.told);
    rows
}

/// Whether a header is one that nullpass says who somebody is with.
fn told(name: &str) -> bool {
    matches!(
        name,
        "x-forwarded-user"
            | "x-forwarded-email"
            | "x-forwarded-preferred-username"
            | "x-forwarded-user-id"
            | "x-forwarded-name"
            | "x-forwarded-groups"
            | "x-nullpass-assertion"
    )
}

/// Programs get JSON, browsers a page.
fn wants_json(headers: &HeaderMap) -> bool {
    !headers.get_all(ACCEPT).iter().any(|value| value.to_str().is_ok_and(|value| value.contains("text/html")))
}

fn with_type<B: Body>(content_type: &'static str, body: B) -> Response<B> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn headers_are_shown_as_text() {
        let (page, content_type) = show(&request("/", &[("x-odd", "<script>alert(1)</script>"), ("x-forwarded-user", "a@b.de")]));
        assert_eq!(content_type, "text/html; charset=utf-8");
        assert!(!page.contains("<script>"), "{page}");
        assert!(page.contains("&#60;script&#62;") || page.contains("&lt;script&gt;"), "{page}");
        assert!(page.contains("class=\"told\"><td><code>x-forwarded-user"), "{page}");
    }

    #[test]
    fn programs_get_json() {
        let (json, content_type) =
            show(&request("/headers?a=b", &[("accept", "application/json"), ("x-a", "1"), ("x-forwarded-user", "a@b.de")]));
        assert_eq!(content_type, "application/json");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["target"], "/headers?a=b");
        assert_eq!(json["headers"][0], serde_json::json!(["x-forwarded-user", "a@b.de"]));
        assert_eq!(show(&request("/headers", &[("accept", "text/html,*/*")])).1, "text/html; charset=utf-8");
        assert_eq!(show(&request("/headers", &[])).1, "application/json");
    }

    #[test]
    fn it_starts_answers_and_stops() {
        use std::io::{Read as _, Write as _};

        let upstream = DemoUpstream::start().unwrap();
        assert!(upstream.address().ip().is_loopback());
        let mut stream = std::net::TcpStream::connect(upstream.address()).unwrap();
        stream
            .write_all(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Type: text/html\r\nContent-Length: 5\r\nConnection: close\r\n\r\n<b>hi")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("content-type: text/plain"), "{answer}");
        assert!(answer.ends_with("<b>hi"), "{answer}");
        upstream.stop();
    }
}
