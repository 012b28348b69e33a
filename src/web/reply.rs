//! Putting answers together: every one of ours carries the same guards, whatever it says.

use askama::Template;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Map, Value};

use super::error::{Told, seconds};
use crate::config::Rate;
use crate::wire::body::Body;

/// Nothing inline, no foreign request, no framing; styles and forms of this origin only (requirement XSS-2).
macro_rules! policy {
    ($script:literal, $forms:literal) => {
        HeaderValue::from_static(concat!(
            "default-src 'none'; style-src 'self'; img-src 'self' data:; ",
            $script,
            "form-action 'self'",
            $forms,
            "; frame-ancestors 'none'; base-uri 'none'"
        ))
    };
}

const CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// Who else may use an answer.
pub(super) const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const RATE_LIMIT_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RATE_LIMIT_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// An answer with a body of that content type.
pub(super) fn with_body(status: StatusCode, kind: &'static str, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = empty(status);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    *response.body_mut() = Body::full(body);
    response
}

/// JSON.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    with_body(status, "application/json", value.to_string())
}

/// JSON that was written before.
pub(super) fn json_text(text: String) -> Response<Body> {
    with_body(StatusCode::OK, "application/json", text)
}

/// A page.
pub(super) fn page(status: StatusCode, template: &impl Template) -> Response<Body> {
    rendered(status, template.render().map(without_controls))
}

/// A page whose fields have to be sent again byte for byte: control characters in them are their writer's. NUL, which no
/// page can hold, must not be among them.
pub(super) fn exact_page(status: StatusCode, template: &impl Template) -> Response<Body> {
    rendered(status, template.render())
}

fn rendered(status: StatusCode, html: askama::Result<String>) -> Response<Body> {
    let (status, html) = match html {
        Ok(html) => (status, html),
        Err(error) => {
            tracing::error!(%error, "a page could not be rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, String::new())
        }
    };
    // The page says itself whether it needs the script; nothing that was filled in could say so in its place.
    let policy = if html.contains("<script src=") { policy!("script-src 'self'; ", "") } else { policy!("", "") };
    let mut response = with_body(status, "text/html; charset=utf-8", html);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(CROSS_ORIGIN_OPENER_POLICY, HeaderValue::from_static("same-origin"));
    // Under `no-referrer` browsers send `Origin: null` with our own forms (Fetch, "append a request Origin header").
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Text that HTML can hold. What was typed is shown again, and a form that no browser sent may have a NUL in it: it would
/// be an error of ours in the page, and browsers drop it or put U+FFFD in its place (HTML, 13.2.5 "Tokenization").
fn without_controls(html: String) -> String {
    let may_not = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    if html.contains(may_not) { html.replace(may_not, "\u{fffd}") } else { html }
}

/// Lets the redirects after a page's forms lead to other hosts.
pub(super) fn let_forms_lead_on(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    let scripted = headers.get(CONTENT_SECURITY_POLICY).is_some_and(|policy| policy == policy!("script-src 'self'; ", ""));
    let policy = if scripted { policy!("script-src 'self'; ", " https: http:") } else { policy!("", " https: http:") };
    headers.insert(CONTENT_SECURITY_POLICY, policy);
}

/// Lets the application show a page in a frame of its own, which is of this origin. For pages that only say something there:
/// nothing on them can be done by a click that was meant for something else.
pub(super) fn let_own_frames_show(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    let policy = headers.get(CONTENT_SECURITY_POLICY).and_then(|policy| policy.to_str().ok()).unwrap_or_default();
    if let Ok(policy) = HeaderValue::from_str(&policy.replace("frame-ancestors 'none'", "frame-ancestors 'self'")) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN"));
    }
}

/// A redirect. `location` must be safe already; one that is no header value leads to `/`.
pub(super) fn redirect(status: StatusCode, location: &str) -> Response<Body> {
    let mut response = empty(status);
    let location = HeaderValue::from_str(location).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(LOCATION, location);
    response
}

/// An error as JSON.
pub(super) fn error(told: &Told, request_id: &str, login_url: Option<&str>) -> Response<Body> {
    let mut body = Map::new();
    body.insert("error".into(), told.text.as_str().into());
    body.insert("code".into(), told.code.into());
    if let Some(field) = &told.field {
        body.insert("field".into(), field.as_str().into());
    }
    body.insert("requestId".into(), request_id.into());
    if let Some(url) = login_url {
        body.insert("loginUrl".into(), url.into());
    }
    let mut response = json(told.status, &Value::Object(body));
    if told.status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    add_waits(response.headers_mut(), told);
    response
}

/// Adds `Retry-After`, `RateLimit` and `Allow`. What is left of a quota is told as
/// draft-ietf-httpapi-ratelimit-headers-10 has it, and once more in the fields of its earlier versions, which is what most
/// clients read. A back-off has no quota: there it says what is left, nothing, and until when.
pub(super) fn add_waits(headers: &mut HeaderMap, told: &Told) {
    if let Some(wait) = told.retry_after {
        headers.insert(RETRY_AFTER, seconds(wait).into());
        if told.status == StatusCode::TOO_MANY_REQUESTS {
            let name = told.quota.map_or("back-off", |quota| quota.name);
            if let Some(quota) = told.quota {
                let Rate { count, per } = quota.rate;
                headers.insert(RATE_LIMIT_LIMIT, count.into());
                insert(headers, RATE_LIMIT_POLICY, &format!("\"{name}\";q={count};w={}", seconds(per)));
            }
            insert(headers, RATE_LIMIT, &format!("\"{name}\";r=0;t={}", seconds(wait)));
            headers.insert(RATE_LIMIT_REMAINING, HeaderValue::from_static("0"));
            headers.insert(RATE_LIMIT_RESET, seconds(wait).into());
        }
    }
    if !told.allow.is_empty() {
        headers.insert(ALLOW, allow(&told.allow));
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// A value for `Allow`.
pub(super) fn allow(methods: &[Method]) -> HeaderValue {
    let list = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    HeaderValue::from_str(&list).unwrap_or(HeaderValue::from_static(""))
}

/// gRPC's form of an error (gRPC over HTTP/2, "Trailers-Only"), with the status that proxies look at.
pub(super) fn grpc(told: &Told) -> Response<Body> {
    let mut response = empty(told.status);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(HeaderName::from_static("grpc-status"), grpc_status(told.status).into());
    let message = percent_encoding::utf8_percent_encode(&told.text, GRPC_MESSAGE).to_string();
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert(HeaderName::from_static("grpc-message"), message);
    }
    add_waits(headers, told);
    response
}

const GRPC_MESSAGE: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');

/// gRPC's number for a status ("HTTP to gRPC Status Code Mapping", with the client's own faults told apart).
const fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 3,
        401 => 16,
        403 => 7,
        404 | 405 | 501 => 12,
        413 | 429 => 8,
        502..=504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::auth::Quota;
    use crate::web::error::too_many;

    #[test]
    fn a_page_holds_no_controls() {
        assert_eq!(without_controls("a\0b\u{8}\u{85}\r\n\tc".into()), "a\u{fffd}b\u{fffd}\u{fffd}\r\n\tc");
        assert_eq!(without_controls("a\u{202e}ö".into()), "a\u{202e}ö");
    }

    #[test]
    fn too_many_attempts_say_when() {
        let quota = Quota { name: "sign-in", rate: Rate { count: 30, per: Duration::from_mins(1) } };
        let response = error(&too_many(Duration::from_millis(2500), Some(quota)), "r1", None);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(response.status(), 429);
        assert_eq!((header("retry-after"), header("ratelimit-limit")), ("3".into(), "30".into()));
        assert_eq!((header("ratelimit-remaining"), header("ratelimit-reset")), ("0".into(), "3".into()));
        assert_eq!((header("ratelimit-policy"), header("ratelimit")), (r#""sign-in";q=30;w=60"#.into(), r#""sign-in";r=0;t=3"#.into()));
        let backed_off = error(&too_many(Duration::from_secs(4), None), "r1", None);
        assert_eq!(backed_off.headers()["ratelimit"], r#""back-off";r=0;t=4"#);
        assert!(!backed_off.headers().contains_key("ratelimit-policy"));
    }

    #[test]
    fn grpc_has_its_own_form() {
        let response = grpc(&Told::new(StatusCode::UNAUTHORIZED, "x", "50% ü"));
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()["grpc-status"], "16");
        assert_eq!(response.headers()["grpc-message"], "50%25 %C3%BC");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
    }

    // A new header is a conscious act.
    #[test]
    fn answers_carry_these_headers_and_no_others() {
        let names = |response: Response<Body>| {
            let mut names: Vec<_> = response.headers().keys().map(|name| name.as_str().to_owned()).collect();
            names.sort();
            names
        };
        let base = ["cache-control", "content-type", "referrer-policy", "x-content-type-options"];
        assert_eq!(names(json(StatusCode::OK, &Value::Null)), base);
        let mut refused = base.to_vec();
        refused.push("www-authenticate");
        refused.sort_unstable();
        assert_eq!(names(error(&Told::new(StatusCode::UNAUTHORIZED, "x", "x"), "1", None)), refused);
    }
}
