//! The gateway's answers to requests that don't reach an application, each as a page, as JSON or as gRPC (contract,
//! section 5, "Who may not").

use std::time::Duration;

use http::header::{CONNECTION, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Response, StatusCode};

use super::ask::{Ask, Form};
use super::error::{Told, too_many, unavailable};
use super::pages::Link;
use super::{Web, call, pages, reply, return_to};
use crate::auth;
use crate::policy::path::PathError;
use crate::proxy::Error as ProxyError;
use crate::wire::body::Body;
use crate::wire::context::ContextError;

impl Web {
    /// Nobody is signed in. A navigation is sent to the sign-in page and comes back to where it was going.
    /// `offer_basic`: the rule takes Basic. `expire_cookies`: the session cookie is worth nothing.
    pub fn sign_in_required(&self, ask: &Ask<'_>, offer_basic: bool, expire_cookies: bool) -> Response<Body> {
        let told = Told::new(StatusCode::UNAUTHORIZED, "sign_in_required", "Sign in first.");
        let login = self.step("/login", ask);
        let mut response = match ask.form() {
            Form::Navigation => reply::redirect(StatusCode::FOUND, &login),
            Form::Submission => {
                let text = "You are not signed in any more, so what you sent did not arrive. Sign in, go back and send it again.";
                let told = Told { text: text.into(), ..told };
                pages::message(self, &told, Some(Link { href: &login, text: "Sign in", top: false }), ask.request_id)
            }
            Form::Frame => pages::message(self, &told, Some(Link { href: &login, text: "Sign in", top: true }), ask.request_id),
            Form::Json => reply::error(&told, ask.request_id, Some(&login)),
            Form::Grpc => reply::grpc(&told),
        };
        if response.status() == StatusCode::UNAUTHORIZED && ask.form() != Form::Grpc {
            let headers = response.headers_mut();
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            if offer_basic && ask.form() == Form::Json {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"nullpass\", charset=\"UTF-8\""));
            }
        }
        if expire_cookies {
            call::append_cookies(&mut response, self.expired_cookies());
        }
        response
    }

    /// Who asks may not. `code`: `forbidden`, `cross_site`, `token_scope` or `service_worker_refused`.
    pub fn denied(&self, ask: &Ask<'_>, code: &'static str) -> Response<Body> {
        let text = match code {
            "cross_site" => "This request comes from another site, so nothing was done.",
            "token_scope" => "This API token is not for this path, method or network.",
            "service_worker_refused" => "There is no service worker here.",
            _ => "This is not for you.",
        };
        self.told(ask, &Told::new(StatusCode::FORBIDDEN, code, text))
    }

    /// The rule asks for a second factor, which this session was begun without.
    pub fn second_factor_required(&self, ask: &Ask<'_>) -> Response<Body> {
        let told = Told::new(StatusCode::FORBIDDEN, "second_factor_required", "A code of your second factor is needed here.");
        self.step_or_told(ask, "/reauth", "Enter a code", &told)
    }

    /// A second factor is asked for, and the account has none.
    pub fn enrolment_required(&self, ask: &Ask<'_>) -> Response<Body> {
        let told = Told::new(StatusCode::FORBIDDEN, "second_factor_enrolment_required", "Set up a second factor first.");
        self.step_or_told(ask, "/account/2fa", "Set it up", &told)
    }

    /// The rule asks for a password that was given lately.
    pub fn fresh_password_required(&self, ask: &Ask<'_>) -> Response<Body> {
        let told = Told::new(StatusCode::FORBIDDEN, "fresh_password_required", "Enter your password again to go on.");
        self.step_or_told(ask, "/reauth", "Enter the password", &told)
    }

    /// The store does not answer, so nobody knows who asks.
    pub fn unavailable(&self, ask: &Ask<'_>) -> Response<Body> {
        self.told(ask, &unavailable())
    }

    /// A use case said no, where the gateway asked it.
    pub fn failed(&self, ask: &Ask<'_>, error: &auth::Error) -> Response<Body> {
        super::error::log(error, ask.request_id);
        self.told(ask, &super::error::told(error))
    }

    /// The request's head can't be read: 421 for a host that is not served here, otherwise 400.
    pub fn refused_head(&self, ask: &Ask<'_>, refused: ContextError) -> Response<Body> {
        let code = if refused.status() == StatusCode::MISDIRECTED_REQUEST { "misdirected_request" } else { "bad_request" };
        let mut response = self.told(ask, &Told::new(refused.status(), code, sentence(&refused.to_string())));
        // What follows on the connection may be part of this request for somebody in front of us.
        if refused.status() == StatusCode::BAD_REQUEST {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The path can't be read, or two servers could read it in ways that lead to different decisions.
    pub fn bad_path(&self, ask: &Ask<'_>, problem: PathError) -> Response<Body> {
        let code = if problem == PathError::Ambiguous { "ambiguous_path" } else { "bad_path" };
        self.told(ask, &Told::new(StatusCode::BAD_REQUEST, code, sentence(&problem.to_string())))
    }

    /// A method that no route and no upstream can have.
    pub fn method_not_allowed(&self, ask: &Ask<'_>) -> Response<Body> {
        self.told(ask, &Told::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not allowed here."))
    }

    /// No upstream serves this host and path.
    pub fn no_upstream(&self, ask: &Ask<'_>) -> Response<Body> {
        self.told(ask, &Told::new(StatusCode::NOT_FOUND, "no_upstream", "There is no application at this address."))
    }

    /// More requests than `limits.requests_per_ip` allows.
    pub fn too_many(&self, ask: &Ask<'_>, retry_after: Duration, limit: Option<u32>) -> Response<Body> {
        let wait = super::error::wait_text(retry_after);
        let told =
            Told { code: "too_many_requests", text: format!("Too many requests: try again in {wait}."), ..too_many(retry_after, limit) };
        self.told(ask, &told)
    }

    /// The upstream has no answer, in the form that its request asked for.
    pub fn upstream_error(&self, form: Form, request_id: &str, error: ProxyError) -> Response<Body> {
        let (code, text) = match error {
            ProxyError::Unreachable | ProxyError::BrokenOff | ProxyError::BadResponse => {
                ("upstream_failed", "The application does not answer.")
            }
            ProxyError::TooSlow => ("upstream_timeout", "The application took too long to answer."),
            ProxyError::TakenOut => ("upstream_unhealthy", "The application is not well at the moment: try again soon."),
            ProxyError::Saturated => ("upstream_busy", "The application has too much to do: try again in a moment."),
            ProxyError::BodyTooLarge => ("body_too_large", "What you sent is larger than is allowed here."),
            ProxyError::BadPrefix => ("ambiguous_path", "The path is not spelled as its application expects."),
            ProxyError::BadRequest | ProxyError::ClientGone => ("bad_request", "This request can't be passed on."),
        };
        let mut told = Told::new(error.status(), code, text);
        if error.status() == StatusCode::SERVICE_UNAVAILABLE {
            told = told.after(super::error::RETRY_SOON);
        }
        self.told_as(form, request_id, &told)
    }

    /// A page of ours that comes back to where the request was going; the request must be one that can be repeated.
    fn step(&self, page: &str, ask: &Ask<'_>) -> String {
        let prefix = &self.settings.prefix;
        let repeatable = matches!(*ask.method, Method::GET | Method::HEAD);
        if !repeatable || ask.form() == Form::Json || ask.form() == Form::Grpc || ask.path_and_query.len() > return_to::MAX_BYTES {
            return format!("{prefix}{page}");
        }
        let rd = return_to::parse(ask.path_and_query, None);
        let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("rd", &rd).finish();
        format!("{prefix}{page}?{query}")
    }

    fn step_or_told(&self, ask: &Ask<'_>, page: &str, text: &str, told: &Told) -> Response<Body> {
        let href = self.step(page, ask);
        match ask.form() {
            Form::Navigation => reply::redirect(StatusCode::FOUND, &href),
            Form::Submission => pages::message(self, told, Some(Link { href: &href, text, top: false }), ask.request_id),
            Form::Frame => pages::message(self, told, Some(Link { href: &href, text, top: true }), ask.request_id),
            Form::Json | Form::Grpc => self.told(ask, told),
        }
    }

    fn told(&self, ask: &Ask<'_>, told: &Told) -> Response<Body> {
        self.told_as(ask.form(), ask.request_id, told)
    }

    fn told_as(&self, form: Form, request_id: &str, told: &Told) -> Response<Body> {
        match form {
            Form::Navigation | Form::Submission | Form::Frame => pages::message(self, told, None, request_id),
            Form::Json => reply::error(told, request_id, None),
            Form::Grpc => reply::grpc(told),
        }
    }
}

/// An error's words as a sentence.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), characters.as_str()))
}
