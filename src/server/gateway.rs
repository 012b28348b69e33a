//! THE LIFE OF A REQUEST, front to back on one page. Nothing unverified gets past step 5.
//!
//! Each step may answer by itself; none calls back up. The order is the security argument:
//! what is malformed is refused before it can cost anything (1), the limit comes before any work (2), our own routes are
//! decided by the path alone (3), who asks is found out once (4), the rules see the very path that will be forwarded (5),
//! and only an `Allow` reaches the upstream (6).

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{SET_COOKIE, STRICT_TRANSPORT_SECURITY};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::activity::Busy;
use super::admit::Wish;
use super::answered::{Answered, Record, Recorder};
use super::caller::{self, Called};
use super::connection::Connection;
use crate::auth::Auth;
use crate::clock::{Clock, Timestamp};
use crate::config::{Access, Assertion};
use crate::crypto::random;
use crate::forward_auth::{self, Announcement};
use crate::limit::{Limiter, Verdict};
use crate::model::Fitness;
use crate::policy::path;
use crate::policy::rules::{Policy, RequestView, Requirement};
use crate::proxy::{self, Forward, ForwardContext, UpstreamIndex};
use crate::tasks::Tasks;
use crate::telemetry::metrics::{Decided, Limit};
use crate::web::{Ask, Asker, Caller, Form, Web};
use crate::wire::body::{Body, keep_head_only};
use crate::wire::cache;
use crate::wire::context::{self, Context};
use crate::wire::cookie::{self, Names};
use crate::wire::websocket::{self, Connect, Unfolded};

/// Everything a request meets.
#[derive(Debug)]
pub struct Gateway {
    /// nullpass's own routes and answers.
    pub web: Arc<Web>,
    /// Who may.
    pub auth: Arc<Auth>,
    /// What it takes.
    pub policy: Policy,
    /// What is believed of a request's head.
    pub context: context::Settings,
    /// Our cookies.
    pub cookies: Names,
    /// The prefix of our own routes.
    pub prefix: String,
    /// Where requests go on that are finished without their client.
    pub tasks: Tasks,
    /// `limits.requests_per_ip`.
    pub limiter: Option<Arc<Limiter>>,
    /// `two_factor.required = "always"`.
    pub always_second_factor: bool,
    /// What another proxy is told about who asks.
    pub announcement: Announcement,
    /// `[identity] assertion`, with the issuer.
    pub assertion: Option<Assertion>,
    /// `[identity] forward_token`.
    pub forward_token: bool,
    /// `Strict-Transport-Security` for every answer that brings none of its own.
    pub hsts: Option<HeaderValue>,
    /// The time.
    pub clock: Clock,
    /// The access log and the counters.
    pub recorder: Arc<Recorder>,
}

/// What every reading of a path must agree on.
#[derive(PartialEq)]
struct Target<'a> {
    own: bool,
    upstream: Option<UpstreamIndex>,
    requirement: &'a Requirement,
}

/// What became of a request, for the record.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) decided: Option<Decided>,
    client: Option<IpAddr>,
    pub(super) user: Option<crate::model::UserId>,
    upstream: Option<UpstreamIndex>,
    /// When it was sent on.
    sent: Option<Instant>,
    upstream_time: Option<Duration>,
}

impl Gateway {
    /// Answers a request.
    pub async fn handle(&self, upstreams: &proxy::Worker, connection: &Arc<Connection>, request: Request<Incoming>) -> Response<Answered> {
        let started = Instant::now();
        let now = self.clock.now();
        let method = request.method().clone();
        // Shared, not copied: a clone counts a reference to the bytes of the head. CONNECT has no path.
        let target = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let (mut outcome, mut request_id) = (Outcome::default(), String::new());
        let mut response = self.walk(upstreams, connection, request, &target, now, &mut outcome, &mut request_id).await;
        if let Some(hsts) = &self.hsts {
            response.headers_mut().entry(STRICT_TRANSPORT_SECURITY).or_insert_with(|| hsts.clone());
        }
        if method == Method::HEAD {
            keep_head_only(&mut response);
        }
        let record = Record {
            at: now,
            started,
            request_id,
            client: outcome.client.or(connection.peer.map(|(ip, _)| ip)),
            method,
            target,
            upstream: outcome.upstream,
            upstream_time: outcome.upstream_time,
            user: outcome.user,
            decided: outcome.decided.unwrap_or(Decided::Bad),
            status: response.status().as_u16(),
        };
        if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
            self.recorder.metrics.limited(Limit::Body);
        }
        if response.status() == StatusCode::REQUEST_TIMEOUT && record.decided == Decided::Own {
            self.recorder.metrics.limited(Limit::HeaderTimeout);
        }
        if let (Some(sent), Some(time)) = (outcome.sent, record.upstream_time) {
            self.recorder.metrics.timed(sent.duration_since(started), time);
        }
        response.map(|body| {
            let body = match connection.untaken.get() {
                Some(untaken) => untaken.watch(body),
                None => body,
            };
            Answered::new(body, record, Arc::clone(&self.recorder), Arc::clone(connection))
        })
    }

    /// Answers a request for one of our own routes. What changes something is finished also when its client goes away in the
    /// middle, as a browser does at a second click: a code that is spent for a session that never began would be a dead end.
    async fn own(&self, request: Request<Incoming>, context: Context, caller: Caller) -> Response<Body> {
        // In a box, like everything that is rare and large here.
        if request.method().is_safe() {
            return Box::pin(self.web.handle(request, &context, caller)).await;
        }
        let web = Arc::clone(&self.web);
        let answer = self.tasks.spawn(async move { Box::pin(web.handle(request, &context, caller)).await });
        match answer.await {
            Ok(response) => response,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only when everything is cut off at the end.
            Err(_) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response
            }
        }
    }

    /// Answers a request whose head is over a limit of the connection's, before anything in it is looked at.
    pub fn head_too_large(&self, connection: &Arc<Connection>, request: &Request<Incoming>) -> Response<Answered> {
        let record = Record {
            at: self.clock.now(),
            started: Instant::now(),
            request_id: "-".to_owned(),
            client: connection.peer.map(|(ip, _)| ip),
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
            upstream: None,
            upstream_time: None,
            user: None,
            decided: Decided::Limited,
            status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.as_u16(),
        };
        let mut response = Response::new(Answered::new(Body::empty(), record, Arc::clone(&self.recorder), Arc::clone(connection)));
        *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        response
    }

    async fn walk(
        &self,
        upstreams: &proxy::Worker,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
        target: &PathAndQuery,
        now: Timestamp,
        outcome: &mut Outcome,
        request_id: &mut String,
    ) -> Response<Body> {
        // 1. Who calls, and for what. What two servers could read differently is refused here.
        let (mut head, body) = request.into_parts();
        let (target, path) = (target.as_str(), target.path());
        let context = match context::read(&head, &connection.info, &self.context, now) {
            Ok(context) => context,
            Err(refused) => {
                outcome.decided = Some(Decided::Bad);
                "-".clone_into(request_id);
                let ask = Ask {
                    method: &head.method,
                    headers: &head.headers,
                    path_and_query: target,
                    context: None,
                    request_id,
                    asker: Asker::Client,
                };
                return self.web.refused_head(&ask, refused);
            }
        };
        request_id.clone_from(&context.request_id);
        outcome.client = Some(context.client);
        if context.client_undeclared {
            self.recorder.undeclared(context.client);
        }
        // A WebSocket over HTTP/2 is from here on the upgrade that it means (RFC 8441).
        match websocket::unfold(&mut head, random::bytes) {
            Connect::No | Connect::WebSocket => {}
            Connect::Tunnel => {
                outcome.decided = Some(Decided::Bad);
                return self.web.method_not_allowed(&ask(&head, target, &context));
            }
            Connect::OtherProtocol => {
                outcome.decided = Some(Decided::Bad);
                return self.web.protocol_unknown(&ask(&head, target, &context));
            }
        }
        // `OPTIONS *` asks about the server itself (RFC 9110, section 9.3.7): it has no path that a rule could name.
        let readings = match path::read(path) {
            Ok(readings) => readings,
            Err(problem) => {
                outcome.decided = Some(Decided::Bad);
                return self.web.bad_path(&ask(&head, target, &context), problem);
            }
        };

        // 2. The limit comes before anything that costs: a token look-up is cheap, a password is not.
        // The page that says so needs its style, which costs no more than saying no: who asks for it is not looked up.
        let asset = self.web.is_asset(path);
        if let Some(limiter) = &self.limiter
            && !asset
            && let Verdict::Refused { retry_after, quota } = limiter.take(context.client, now)
        {
            outcome.decided = Some(Decided::Limited);
            return self.web.too_many(&ask(&head, target, &context), retry_after, quota);
        }

        // 3. Every reading of the path must lead to the same place under the same rule.
        let target_of = |path: &str| {
            let view = RequestView {
                host: &context.host,
                path,
                method: &head.method,
                client: context.client,
                client_undeclared: context.client_undeclared,
            };
            Target {
                own: self.web.is_own(path),
                upstream: upstreams.proxy().route(context.host.as_str(), path),
                requirement: self.policy.requirement(&view),
            }
        };
        let Target { own, upstream, requirement } = match readings.agree(target_of) {
            Ok(target) => target,
            Err(problem) => {
                outcome.decided = Some(Decided::Bad);
                return self.web.bad_path(&ask(&head, target, &context), problem);
            }
        };

        // 4. Who asks. A credential of ours counts even where nobody needs one: it must never be forwarded.
        let mut called = if asset { Called::nobody() } else { caller::find(&self.auth, &self.cookies, &head, &context).await };
        if own {
            // Nothing of ours opens a stream, and to the client any 2xx would say that one is open.
            if Unfolded::of(&head.extensions).is_some() {
                outcome.decided = Some(Decided::Own);
                return self.web.method_not_allowed(&ask(&head, target, &context));
            }
            // In a box, like everything that is rare and large here: a connection keeps room for a whole walk.
            if let Some(question) = forward_auth::question(target, &self.prefix) {
                return Box::pin(self.forward_auth(&head, question, &context, called, upstreams.proxy(), outcome)).await;
            }
            outcome.decided = Some(Decided::Own);
            outcome.user = called.caller.identity().map(|identity| identity.user);
            return self.own(Request::from_parts(head, body), context, called.caller).await;
        }

        // 5. What it takes: from the rule, the caller and the clock.
        let wish = Wish { ask: ask(&head, target, &context), context: &context, readings: &readings, requirement };
        let admitted = self.admit(&wish, &mut called).await;
        let identity = called.identity();
        outcome.user = identity.map(|identity| identity.user);
        if let Err(refused) = admitted {
            outcome.decided = Some(refused.decided);
            // A person's form that would be lost is kept, if it is small and their own.
            if refused.keeps
                && upstream.is_some()
                && head.method == Method::POST
                && let Some(kept) = Box::pin(self.web.keep_form(&head, body, &context, &called.caller)).await
            {
                return kept;
            }
            return refused.answer;
        }
        let Some(upstream) = upstream else {
            outcome.decided = Some(if identity.is_some() { Decided::Allow } else { Decided::Public });
            return self.web.no_upstream(&ask(&head, target, &context));
        };

        // 6. Forward. Who is announced was verified above; a session that is fit for enrolment only is nobody here.
        let announced = identity.filter(|identity| identity.fitness == Fitness::Full);
        outcome.decided = Some(if announced.is_some() { Decided::Allow } else { Decided::Public });
        outcome.upstream = Some(upstream);
        let assertion = match self.assertion_for(announced, upstreams.proxy().name(upstream), &head.method, &context, path) {
            Ok(assertion) => assertion,
            Err(error) => {
                tracing::error!(%error, request_id = %context.request_id, "the assertion could not be signed");
                outcome.decided = Some(Decided::Unavailable);
                return self.web.unavailable(&ask(&head, target, &context));
            }
        };
        // What an answer of ours would be formed by, in the upstream's place.
        let reader = self.web.reader(&ask(&head, target, &context), target);
        cookie::strip_ours(&mut head.headers);
        let private = requirement.access != Access::Public && !requirement.danger_shared_cache;
        let how = Forward {
            upstream,
            context: &ForwardContext {
                request_id: &context.request_id,
                client: context.client,
                peer_trusted: context.peer_trusted,
                peer: context.peer,
                scheme: context.scheme.as_str(),
                host_header: &context.authority,
                port: context.port.unwrap_or(context.scheme.default_port()),
            },
            identity: announced.map(|identity| &**identity),
            token: called.caller.token().filter(|_| self.forward_token && announced.is_some()),
            assertion,
            strip_authorization: called.ours_in_header,
            private,
            strip_method_override: self.policy.has_method_rules_for(&context.host),
            ended: self.ended(&called.caller),
            hold: Unfolded::of(&head.extensions).map(|_| Box::new(Busy::on(connection)) as Box<dyn Any + Send>),
            prefix: &self.prefix,
            own_cookie: |name| cookie::is_ours(name.as_bytes()),
        };
        let sent = Instant::now();
        outcome.sent = Some(sent);
        let forwarded = upstreams.forward(Request::from_parts(head, body), how).await;
        outcome.upstream_time = Some(sent.elapsed());
        let mut response = match forwarded {
            Ok(response) => response,
            Err(error) => {
                log_upstream_error(error, upstreams.proxy().name(upstream), &context.request_id);
                return self.web.upstream_error(&reader, target, &context.request_id, error);
            }
        };

        // 7. A navigation's answer may carry the cookie's next token. What touches a cookie must not be cached for others.
        if called.expire_cookies {
            cache::make_private(response.headers_mut());
            for expired in self.web.expired_cookies() {
                response.headers_mut().append(SET_COOKIE, expired);
            }
        } else if reader.form == Form::Navigation && announced.is_some() {
            self.renew(&called.caller, &mut response, now);
        }
        response
    }
}

fn ask<'a>(head: &'a Parts, target: &'a str, context: &'a Context) -> Ask<'a> {
    Ask {
        method: &head.method,
        headers: &head.headers,
        path_and_query: target,
        context: Some(context),
        request_id: &context.request_id,
        asker: Asker::Client,
    }
}

fn log_upstream_error(error: proxy::Error, upstream: &str, request_id: &str) {
    if error.status().is_server_error() {
        tracing::warn!(%error, upstream, request_id, "a request was not answered by its upstream");
    } else {
        tracing::debug!(%error, upstream, request_id, "a request was not forwarded");
    }
}
