//! The gateway's answers to requests that don't reach an application, each as a page, as JSON or as gRPC (contract,
//! section 5, "Who may not").

use std::time::Duration;

use http::header::{CONNECTION, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Response, StatusCode};

use super::ask::{Ask, Asker, Form};
use super::error::{Told, too_many, unavailable};
use super::languages::{Language, Texts};
use super::pages::{Link, Shell};
use super::{Web, bounce, call, kept, pages, reply, return_to};
use crate::auth::{self, Quota};
use crate::policy::path::PathError;
use crate::proxy::Error as ProxyError;
use crate::wire::body::Body;
use crate::wire::context::ContextError;

/// Where a navigation would be sent, for `?mode=status`.
const X_NULLPASS_LOCATION: HeaderName = HeaderName::from_static("x-nullpass-location");

/// Who reads an answer of ours in an upstream's place: found out before the request is passed on, and made only if it is
/// needed.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The answer's form.
    pub form: Form,
    language: Language,
    /// An address that shows the answer again.
    here: Option<&'a str>,
}

impl Web {
    /// Nobody is signed in. A navigation is sent to the sign-in page and comes back to where it was going.
    /// `offer_basic`: the rule takes Basic. `expire_cookies`: the session cookie is worth nothing.
    pub fn sign_in_required(&self, ask: &Ask<'_>, offer_basic: bool, expire_cookies: bool) -> Response<Body> {
        let told = Told::new(StatusCode::UNAUTHORIZED, "sign_in_required", "Sign in first.");
        let form = ask.form();
        let mut login = self.step("/login", ask);
        if form == Form::Navigation
            && expire_cookies
            && let Some(why) = bounce::reason(self, ask)
        {
            let mark = if login.contains('?') { '&' } else { '?' };
            login = format!("{login}{mark}why={why}");
        }
        let mut response = match form {
            Form::Navigation => send_to(ask, &told, &login),
            Form::Submission => {
                let text = "You are not signed in any more, so what you sent did not arrive. Sign in, go back and send it again.";
                self.challenge(
                    &self.reader(ask, ask.path_and_query),
                    &Told { text: text.into(), code: "submission_lost", ..told },
                    &login,
                    ask.request_id,
                )
            }
            Form::Frame | Form::Json | Form::Grpc => self.challenge(&self.reader(ask, ask.path_and_query), &told, &login, ask.request_id),
        };
        if response.status() == StatusCode::UNAUTHORIZED && form != Form::Grpc {
            let headers = response.headers_mut();
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            if offer_basic && form == Form::Json {
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
        let told = Told::new(StatusCode::FORBIDDEN, code, text);
        if code != "forbidden" {
            return self.told(ask, &told);
        }
        // By way of signing out: who is signed in is not asked again.
        let (reader, href) = (self.reader(ask, ask.path_and_query), self.step("/logout", ask));
        let text = reader.language.texts().remedies.other_sign_in;
        self.told_as(&reader, ask.request_id, &told, Some(Link { href: &href, text, top: reader.form == Form::Frame }))
    }

    /// The rule asks for a second factor, which this session was begun without.
    pub fn second_factor_required(&self, ask: &Ask<'_>) -> Response<Body> {
        let told = Told::new(StatusCode::FORBIDDEN, "second_factor_required", "A code of your second factor is needed here.");
        self.step_or_told(ask, "/reauth", |t| t.remedies.enter_code, &told)
    }

    /// A second factor is asked for, and the account has none.
    pub fn enrolment_required(&self, ask: &Ask<'_>) -> Response<Body> {
        let told = Told::new(StatusCode::FORBIDDEN, "second_factor_enrolment_required", "Set up a second factor first.");
        self.step_or_told(ask, "/account/2fa", |t| t.remedies.set_up, &told)
    }

    /// The rule asks for a password that was given lately.
    pub fn fresh_password_required(&self, ask: &Ask<'_>) -> Response<Body> {
        let told = Told::new(StatusCode::FORBIDDEN, "fresh_password_required", "Enter your password again to go on.");
        self.step_or_told(ask, "/reauth", |t| t.remedies.enter_password, &told)
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

    /// Somebody asks what would become of a request, and is no proxy of ours.
    pub fn untrusted_proxy(&self, ask: &Ask<'_>) -> Response<Body> {
        let text = "Only a proxy that server.trusted_proxies names may ask here.";
        self.told(ask, &Told::new(StatusCode::FORBIDDEN, "untrusted_proxy", text))
    }

    /// A proxy asks about a request, and it is not certain about which.
    pub fn doubtful(&self, ask: &Ask<'_>, status: StatusCode, code: &'static str, problem: &str) -> Response<Body> {
        self.told(ask, &Told::new(status, code, sentence(problem)))
    }

    /// A proxy asks about one of our own routes, whose requests it should send to us.
    pub fn own_route(&self, ask: &Ask<'_>) -> Response<Body> {
        let text = format!("Requests below {} belong to nullpass: the proxy should send them there unasked.", self.settings.prefix);
        self.told(ask, &Told::new(StatusCode::FORBIDDEN, "own_route", text))
    }

    /// A plain yes, which nobody may keep.
    pub fn nothing(&self) -> Response<Body> {
        reply::empty(StatusCode::OK)
    }

    /// A method that no route and no upstream can have.
    pub fn method_not_allowed(&self, ask: &Ask<'_>) -> Response<Body> {
        self.told(ask, &Told::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not allowed here."))
    }

    /// An extended CONNECT for another protocol than `WebSocket` (RFC 8441).
    pub fn protocol_unknown(&self, ask: &Ask<'_>) -> Response<Body> {
        self.told(ask, &Told::new(StatusCode::NOT_IMPLEMENTED, "protocol_unknown", "This protocol is not spoken here."))
    }

    /// No upstream serves this host and path.
    pub fn no_upstream(&self, ask: &Ask<'_>) -> Response<Body> {
        self.told(ask, &Told::new(StatusCode::NOT_FOUND, "no_upstream", "There is no application at this address."))
    }

    /// More requests than `limits.requests_per_ip` allows.
    pub fn too_many(&self, ask: &Ask<'_>, retry_after: Duration, quota: Quota) -> Response<Body> {
        let wait = super::error::wait_text(retry_after);
        let told = Told {
            code: "too_many_requests",
            text: format!("Too many requests: try again in {wait}."),
            ..too_many(retry_after, Some(quota))
        };
        self.told(ask, &told)
    }

    /// Who would read an answer of ours to this request, should its upstream have none. `target`: its path and query.
    pub fn reader<'a>(&self, ask: &Ask<'_>, target: &'a str) -> Reader<'a> {
        let form = ask.form();
        let language = match form {
            Form::Navigation | Form::Submission | Form::Frame => self.language(ask.headers),
            // Nobody reads it.
            Form::Json | Form::Grpc => Language::En,
        };
        let shown_again = form == Form::Navigation && ask.asker == Asker::Client && target.len() <= return_to::MAX_BYTES;
        Reader { form, language, here: shown_again.then_some(target) }
    }

    /// The upstream has no answer, in the form that its request, for `path_and_query`, asked for.
    pub fn upstream_error(&self, reader: &Reader<'_>, path_and_query: &str, request_id: &str, error: ProxyError) -> Response<Body> {
        let (code, text) = match error {
            ProxyError::Unreachable | ProxyError::BrokenOff | ProxyError::BadResponse => {
                ("upstream_failed", "The application does not answer.")
            }
            ProxyError::TooSlow => ("upstream_timeout", "The application took too long to answer."),
            ProxyError::TakenOut => ("upstream_unhealthy", "The application is not well at the moment: try again soon."),
            ProxyError::Saturated => ("upstream_busy", "The application has too much to do: try again in a moment."),
            ProxyError::BodyTooLarge => ("body_too_large", "What you sent is larger than is allowed here."),
            ProxyError::BadPrefix => ("ambiguous_path", "The path is not spelled as its application expects."),
            ProxyError::SessionEnded => return self.session_ended(reader, path_and_query, request_id),
            ProxyError::BadRequest | ProxyError::ClientGone => ("bad_request", "This request can't be passed on."),
        };
        let mut told = Told::new(error.status(), code, text);
        if error.status() == StatusCode::SERVICE_UNAVAILABLE {
            told = told.after(super::error::RETRY_SOON);
        }
        self.told_as(reader, request_id, &told, None)
    }

    /// The session ended while the application was at work. Like everybody who has to sign in, but nobody knows what of
    /// the request has been done.
    fn session_ended(&self, reader: &Reader<'_>, path_and_query: &str, request_id: &str) -> Response<Body> {
        let told = Told::new(StatusCode::UNAUTHORIZED, "session_ended", "Your session has ended: sign in again.");
        let login = format!("{}/login", self.settings.prefix);
        match reader.form {
            Form::Navigation if path_and_query.len() <= return_to::MAX_BYTES => {
                reply::redirect(StatusCode::FOUND, &coming_back(&login, &return_to::parse(path_and_query, None)))
            }
            Form::Navigation | Form::Submission | Form::Frame | Form::Json | Form::Grpc => {
                self.challenge(reader, &told, &login, request_id)
            }
        }
    }

    /// A 401 that says how to sign in (RFC 9110, section 15.5.2).
    fn challenge(&self, reader: &Reader<'_>, told: &Told, login: &str, request_id: &str) -> Response<Body> {
        let text = reader.language.texts().remedies.sign_in;
        let page = |top| pages::message(self.shell_for(reader), told, Some(Link { href: login, text, top }), request_id);
        let mut response = match reader.form {
            Form::Navigation | Form::Submission => page(false),
            Form::Frame => framed(page(true)),
            Form::Json => reply::error(told, request_id, Some(login)),
            Form::Grpc => return reply::grpc(told),
        };
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        response
    }

    /// A page of ours that comes back to where the request was going, if it can be repeated, or to the page that a form was on.
    fn step(&self, page: &str, ask: &Ask<'_>) -> String {
        let prefix = &self.settings.prefix;
        if let (Form::Submission, Asker::Client, Some(context)) = (ask.form(), ask.asker, ask.context) {
            return coming_back(&format!("{prefix}{page}"), &kept::page_before(ask.headers, context));
        }
        let repeatable = matches!(*ask.method, Method::GET | Method::HEAD);
        let for_people = !matches!(ask.form(), Form::Json | Form::Grpc);
        let comes_back = repeatable && for_people && ask.path_and_query.len() <= return_to::MAX_BYTES;
        let (origin, rd) = self.way_back(ask, comes_back);
        if !comes_back {
            return format!("{origin}{prefix}{page}");
        }
        coming_back(&format!("{origin}{prefix}{page}"), &rd)
    }

    /// Where our pages are for the browser that an answer goes to (empty: where it is already), and where they lead back.
    ///
    /// An answer that another proxy passes on gets an absolute link, of `public_url` when the request was for its host or
    /// for the site that a session is good for, else of the request's own host when `allowed_hosts` says that it is
    /// one of ours (requirement FWD-4). Otherwise the browser resolves the path, which leads nowhere else.
    fn way_back(&self, ask: &Ask<'_>, comes_back: bool) -> (String, String) {
        let path = || if comes_back { return_to::parse(ask.path_and_query, None) } else { String::new() };
        let context = match (ask.asker, ask.context) {
            (Asker::Proxy | Asker::ProxyByStatus, Some(context)) => context,
            (Asker::Client, _) | (Asker::Proxy | Asker::ProxyByStatus, None) => return (String::new(), path()),
        };
        let here = format!("{}://{}", context.scheme.as_str(), context.authority);
        if let Some(public) = &self.settings.public_url {
            let origin = public.origin().ascii_serialization();
            if public.host_str() == Some(context.host.as_str()) {
                return (origin, path());
            }
            let url = return_to::parse(&format!("{here}{}", ask.path_and_query), self.site.as_ref());
            if url != "/" {
                return (origin, url);
            }
        }
        let known = !self.settings.context.allowed_hosts.is_empty();
        (if known { here } else { String::new() }, path())
    }

    fn step_or_told(&self, ask: &Ask<'_>, page: &str, text: fn(&Texts) -> &'static str, told: &Told) -> Response<Body> {
        let href = self.step(page, ask);
        let reader = self.reader(ask, ask.path_and_query);
        let link = |top| Some(Link { href: &href, text: text(reader.language.texts()), top });
        match reader.form {
            Form::Navigation => send_to(ask, told, &href),
            Form::Submission => pages::message(self.shell_for(&reader), told, link(false), ask.request_id),
            Form::Frame => framed(pages::message(self.shell_for(&reader), told, link(true), ask.request_id)),
            Form::Json | Form::Grpc => self.told(ask, told),
        }
    }

    fn told(&self, ask: &Ask<'_>, told: &Told) -> Response<Body> {
        self.told_as(&self.reader(ask, ask.path_and_query), ask.request_id, told, None)
    }

    fn told_as(&self, reader: &Reader<'_>, request_id: &str, told: &Told, link: Option<Link<'_>>) -> Response<Body> {
        match reader.form {
            Form::Navigation | Form::Submission | Form::Frame => {
                // An empty reference is this very address; only a navigation may be done twice.
                let again = || Link { href: "", text: reader.language.texts().remedies.retry, top: false };
                let may_help = told.status.is_server_error() || told.status == StatusCode::TOO_MANY_REQUESTS;
                let link = link.or_else(|| (reader.form == Form::Navigation && may_help).then(again));
                let page = pages::message(self.shell_for(reader), told, link, request_id);
                if reader.form == Form::Frame { framed(page) } else { page }
            }
            Form::Json => reply::error(told, request_id, None),
            Form::Grpc => reply::grpc(told),
        }
    }

    fn shell_for(&self, reader: &Reader<'_>) -> Shell<'_> {
        self.shell(reader.language, reader.here.map(str::to_owned))
    }
}

/// What stands in a frame of the application in place of what should: otherwise the browser shows an error of its own there,
/// and no link.
fn framed(mut page: Response<Body>) -> Response<Body> {
    reply::let_own_frames_show(&mut page);
    page
}

/// A page of ours that leads to `rd` in the end.
fn coming_back(page: &str, rd: &str) -> String {
    let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("rd", rd).finish();
    format!("{page}?{query}")
}

/// Sends a browser to a page of ours; a proxy that looks at the status alone finds the place in a header.
fn send_to(ask: &Ask<'_>, told: &Told, href: &str) -> Response<Body> {
    match ask.asker {
        Asker::Client | Asker::Proxy => reply::redirect(StatusCode::FOUND, href),
        Asker::ProxyByStatus => {
            let mut response = reply::empty(told.status);
            if let Ok(href) = HeaderValue::from_str(href) {
                response.headers_mut().insert(X_NULLPASS_LOCATION, href);
            }
            response
        }
    }
}

/// An error's words as a sentence.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), characters.as_str()))
}
