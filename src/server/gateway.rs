//! THE LIFE OF A REQUEST, front to back on one page. Nothing unverified gets past step 5.
//!
//! Each step may answer by itself; none calls back up. The order is the security argument:
//! what is malformed is refused before it can cost anything (1), the limit comes before any work (2), our own routes are
//! decided by the path alone (3), who asks is found out once (4), the rules see the very path that will be forwarded (5),
//! and only an `Allow` reaches the upstream (6).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CACHE_CONTROL, SET_COOKIE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::answered::{Answered, Record, Recorder};
use super::caller::{self, Called};
use super::connection::Connection;
use crate::auth::basic::BasicOutcome;
use crate::auth::live::LiveApiToken;
use crate::auth::session::Recognised;
use crate::auth::{self, Auth};
use crate::clock::{Clock, Timestamp};
use crate::config::{Access, Assertion};
use crate::crypto::token::AssertionClaims;
use crate::limit::{Limiter, Verdict};
use crate::model::{Fitness, Identity};
use crate::policy::path::{self, Readings};
use crate::policy::rules::{Decision, Policy, RequestView, Requirement};
use crate::proxy::{self, Ended, Forward, ForwardContext, UpstreamIndex};
use crate::telemetry::metrics::Decided;
use crate::web::{Ask, Caller, Web};
use crate::wire::body::Body;
use crate::wire::context::{self, Context, Navigation, Source};
use crate::wire::cookie::{self, Names};

/// Everything a request meets.
#[derive(Debug)]
pub struct Gateway {
    /// nullpass's own routes and answers.
    pub web: Web,
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
    /// `limits.requests_per_ip`.
    pub limiter: Option<Arc<Limiter>>,
    /// `two_factor.required = "always"`.
    pub always_second_factor: bool,
    /// `[identity] assertion`, with the issuer.
    pub assertion: Option<Assertion>,
    /// `[identity] forward_token`.
    pub forward_token: bool,
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
struct Outcome {
    decided: Option<Decided>,
    client: Option<IpAddr>,
    user: Option<crate::model::UserId>,
    upstream: Option<UpstreamIndex>,
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
        let response = self.walk(upstreams, connection, request, &target, now, &mut outcome, &mut request_id).await;
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
        if let Some(time) = record.upstream_time {
            self.recorder.metrics.timed(started.elapsed().saturating_sub(time), time);
        }
        response.map(|body| Answered::new(body, record, Arc::clone(&self.recorder), Arc::clone(connection)))
    }

    async fn walk(
        &self,
        upstreams: &proxy::Worker,
        connection: &Connection,
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
                let ask = Ask { method: &head.method, headers: &head.headers, path_and_query: target, context: None, request_id };
                return self.web.refused_head(&ask, refused);
            }
        };
        request_id.clone_from(&context.request_id);
        outcome.client = Some(context.client);
        if context.client_undeclared {
            self.recorder.undeclared(context.client);
        }
        if head.method == Method::CONNECT {
            outcome.decided = Some(Decided::Bad);
            return self.web.method_not_allowed(&ask(&head, target, &context));
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
        if let Some(limiter) = &self.limiter
            && let Verdict::Refused { retry_after, limit } = limiter.take(context.client, now)
        {
            outcome.decided = Some(Decided::Limited);
            return self.web.too_many(&ask(&head, target, &context), retry_after, Some(limit));
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
        let mut called = caller::find(&self.auth, &self.cookies, &head, &context);
        if own {
            outcome.decided = Some(Decided::Own);
            outcome.user = called.caller.identity().map(|identity| identity.user);
            // In a box, like everything that is rare and large here: a connection keeps room for a whole walk.
            return Box::pin(self.web.handle(Request::from_parts(head, body), &context, called.caller)).await;
        }
        if let Err(answer) = self.take_basic(&mut called, requirement, &ask(&head, target, &context), &context).await {
            outcome.decided = Some(Decided::Challenge);
            return *answer;
        }
        // A page of another site may not act with somebody's cookie: it is as if there were none, and where one is
        // needed the answer says why.
        let foreign = called.caller.is_from_cookie() && !requirement.cross_site && self.acts_from_elsewhere(&head, &context);
        if foreign && requirement.access != Access::Public {
            outcome.decided = Some(Decided::Deny);
            return self.web.denied(&ask(&head, target, &context), "cross_site");
        }
        match &called.caller {
            Caller::Refused => {
                outcome.decided = Some(Decided::Challenge);
                return self.web.sign_in_required(&ask(&head, target, &context), requirement.basic, false);
            }
            Caller::StoreAway if requirement.access != Access::Public => {
                outcome.decided = Some(Decided::Unavailable);
                return self.web.unavailable(&ask(&head, target, &context));
            }
            Caller::ApiToken { token, .. } if !in_scope(token, &readings, &head.method, context.client) => {
                outcome.decided = Some(Decided::Deny);
                return self.web.denied(&ask(&head, target, &context), "token_scope");
            }
            Caller::ApiToken { .. } | Caller::Basic(_) | Caller::Session { .. } | Caller::StoreAway | Caller::Nobody => {}
        }

        // 5. What it takes: pure, from the rule, the identity and the clock.
        let identity = called.caller.identity().filter(|_| !foreign);
        outcome.user = identity.map(|identity| identity.user);
        let refusal = match requirement.decide(identity.map(|identity| &**identity), self.always_second_factor, now) {
            Decision::Allow => None,
            Decision::SignIn => Some((
                Decided::Challenge,
                self.web.sign_in_required(&ask(&head, target, &context), requirement.basic, called.expire_cookies),
            )),
            Decision::SecondFactor => Some((Decided::Challenge, self.web.second_factor_required(&ask(&head, target, &context)))),
            Decision::EnrolSecondFactor => Some((Decided::Challenge, self.web.enrolment_required(&ask(&head, target, &context)))),
            Decision::FreshPassword => Some((Decided::Challenge, self.web.fresh_password_required(&ask(&head, target, &context)))),
            Decision::Deny => Some((Decided::Deny, self.web.denied(&ask(&head, target, &context), "forbidden"))),
        };
        if let Some((decided, answer)) = refusal {
            outcome.decided = Some(decided);
            return answer;
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
        let navigation = context::navigation(&head.method, &head.headers) == Navigation::Document;
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
            prefix: &self.prefix,
            own_cookie: |name| cookie::is_ours(name.as_bytes()),
        };
        // What an answer of ours in the upstream's place would be formed by.
        let form = ask(&head, target, &context).form();
        let sent = Instant::now();
        let forwarded = upstreams.forward(Request::from_parts(head, body), how).await;
        outcome.upstream_time = Some(sent.elapsed());
        let mut response = match forwarded {
            Ok(response) => response,
            Err(error) => {
                log_upstream_error(error, upstreams.proxy().name(upstream), &context.request_id);
                return self.web.upstream_error(form, &context.request_id, error);
            }
        };

        // 7. A navigation's answer may carry the cookie's next token; then it must not be cached for others.
        if called.expire_cookies {
            for expired in self.web.expired_cookies() {
                response.headers_mut().append(SET_COOKIE, expired);
            }
        } else if navigation && announced.is_some() {
            self.renew(&called.caller, &mut response, now);
        }
        response
    }

    /// Basic credentials, where the rule takes them. Elsewhere they belong to the upstream, unless they are ours.
    async fn take_basic(
        &self,
        called: &mut Called,
        requirement: &Requirement,
        ask: &Ask<'_>,
        context: &Context,
    ) -> Result<(), Box<Response<Body>>> {
        if !requirement.basic {
            return Ok(());
        }
        let Some((user, password)) = called.basic.take() else { return Ok(()) };
        called.ours_in_header = true;
        called.expire_cookies = false;
        let client = || self.web.client(ask.headers, context);
        let recognised = Box::pin(self.auth.recognise_basic(&user, &password, context.client, client, context.now)).await;
        called.caller = match recognised {
            Ok(BasicOutcome::Password(identity)) => Caller::Basic(identity),
            Ok(BasicOutcome::Token(Recognised::Good(identity, entry))) => match &*entry {
                auth::live::Entry::Api(token) => Caller::ApiToken { identity, token: Arc::clone(token) },
                auth::live::Entry::Session { .. } => Caller::Refused,
            },
            Ok(BasicOutcome::Token(Recognised::StoreAway)) => Caller::StoreAway,
            Ok(BasicOutcome::Token(Recognised::No)) => Caller::Refused,
            Err(auth::Error::WrongCredentials | auth::Error::AccountDisabled) => Caller::Refused,
            Err(error) => return Err(Box::new(self.web.failed(ask, &error))),
        };
        Ok(())
    }

    /// Whether a page of another site made the browser send this, and it would change something or open a channel.
    fn acts_from_elsewhere(&self, head: &Parts, context: &Context) -> bool {
        let safe = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        let upgrades = head.headers.contains_key(http::header::UPGRADE);
        (!safe || upgrades) && context::source(&head.headers, context, &self.context) == Source::Foreign
    }

    fn assertion_for(
        &self,
        identity: Option<&Arc<Identity>>,
        upstream: &str,
        method: &Method,
        context: &Context,
        path: &str,
    ) -> Result<Option<HeaderValue>, auth::Error> {
        let (Some(assertion), Some(identity)) = (&self.assertion, identity) else { return Ok(None) };
        let admin_group = self.auth.admin_group();
        let claims = AssertionClaims {
            sub: identity.user,
            email: identity.email.clone(),
            groups: identity.groups.iter().filter(|group| *group != admin_group).cloned().collect(),
            iss: String::new(),
            aud: upstream.to_owned(),
            iat: context.now.as_secs(),
            exp: context.now.plus(assertion.ttl).as_secs(),
            method: method.as_str().to_owned(),
            host: context.host.as_str().to_owned(),
            path: path.to_owned(),
        };
        let token = self.auth.assertion(&claims)?;
        HeaderValue::from_str(token.expose()).map(Some).map_err(|error| auth::Error::Internal(error.to_string()))
    }

    /// Lets streams and upgrades find out that their session has ended.
    fn ended(&self, caller: &Caller) -> Option<Ended> {
        let clock = self.clock.clone();
        match caller {
            Caller::Session { session, .. } => {
                let session = Arc::clone(session);
                Some(Arc::new(move || session.is_over(clock.now())))
            }
            Caller::ApiToken { token, .. } => {
                let token = Arc::clone(token);
                Some(Arc::new(move || token.is_over(clock.now())))
            }
            Caller::Basic(identity) => {
                let (auth, user, proven_at) = (Arc::clone(&self.auth), identity.user, identity.auth_time);
                Some(Arc::new(move || !auth.live().still_takes_password(user, proven_at)))
            }
            Caller::Nobody | Caller::Refused | Caller::StoreAway => None,
        }
    }

    fn renew(&self, caller: &Caller, response: &mut Response<Body>, now: Timestamp) {
        let Caller::Session { identity, entry, from_cookie: true, .. } = caller else { return };
        if let Some((token, expires_at)) = self.auth.renew(entry, identity, now) {
            let headers = response.headers_mut();
            headers.append(SET_COOKIE, self.web.renewed_cookie(token.expose(), expires_at, now));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        }
    }
}

fn ask<'a>(head: &'a Parts, target: &'a str, context: &'a Context) -> Ask<'a> {
    Ask { method: &head.method, headers: &head.headers, path_and_query: target, context: Some(context), request_id: &context.request_id }
}

/// Whether an API token may be used for this: its paths in every reading, its methods and its networks.
fn in_scope(token: &LiveApiToken, readings: &Readings<'_>, method: &Method, client: IpAddr) -> bool {
    let scope = &token.token.scope;
    let path = token.paths.is_empty()
        || readings.agree(|path| token.paths.iter().any(|glob| glob.matches(path, false))).is_ok_and(|matches| matches);
    let method = scope.methods.is_empty() || scope.methods.iter().any(|allowed| allowed == method.as_str());
    let network = scope.networks.is_empty() || scope.networks.iter().any(|network| network.contains(&client.to_canonical()));
    path && method && network
}

fn log_upstream_error(error: proxy::Error, upstream: &str, request_id: &str) {
    if error.status().is_server_error() {
        tracing::warn!(%error, upstream, request_id, "a request was not answered by its upstream");
    } else {
        tracing::debug!(%error, upstream, request_id, "a request was not forwarded");
    }
}
