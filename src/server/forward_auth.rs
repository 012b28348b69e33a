//! Forward-auth: another proxy asks what would become of a request, and forwards it itself. The steps are those of the
//! gateway, and the decision is the very same one (`admit`).

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderValue, Response};

use super::admit::Wish;
use super::caller::Called;
use super::gateway::{Gateway, Outcome};
use crate::config::Access;
use crate::forward_auth::{self, Doubt, Original, Question};
use crate::model::Fitness;
use crate::policy::path;
use crate::policy::rules::{RequestView, Requirement};
use crate::proxy::Proxy;
use crate::telemetry::metrics::Decided;
use crate::web::{Ask, Asker};
use crate::wire::body::Body;
use crate::wire::context::{self, Context, Navigation};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who a statement is for where no upstream of ours serves the host and path.
const AUDIENCE: &str = "forward-auth";

/// What every reading of the path must agree on. Where it would be forwarded to is the other proxy's business.
#[derive(PartialEq)]
struct Target<'a> {
    own: bool,
    requirement: &'a Requirement,
}

impl Gateway {
    /// Answers a question. The body, if there is one, is not read.
    pub(super) async fn forward_auth(
        &self,
        head: &Parts,
        question: Question<'_>,
        context: &Context,
        mut called: Called,
        proxy: &Proxy,
        outcome: &mut Outcome,
    ) -> Response<Body> {
        let by_status = question.by_status();
        let asker = if by_status == Ok(true) { Asker::ProxyByStatus } else { Asker::Proxy };
        let unread = Ask {
            method: &head.method,
            headers: &head.headers,
            path_and_query: "/",
            context: Some(context),
            request_id: &context.request_id,
            asker,
        };

        // Who may ask. Anybody else could find out, in the name of a proxy, what is let through for whom.
        if !context.peer_trusted {
            outcome.decided = Some(Decided::Deny);
            return finish(self.web.untrusted_proxy(&unread), asker);
        }

        // About what. Any doubt is a refusal.
        outcome.decided = Some(Decided::Bad);
        let read = by_status.and_then(|_| forward_auth::read(head, question, context, &self.context));
        let checked = read.and_then(|original| {
            let by_method = self.policy.has_method_rules_for(&original.context.host);
            self.announcement.check(&head.headers, by_method).map(|()| original)
        });
        let Original { method, target, context } = match checked {
            Ok(original) => original,
            Err(doubt) => return finish(self.web.doubtful(&unread, doubt.status(), code(doubt), &doubt.to_string()), asker),
        };
        let ask = Ask { method: &method, path_and_query: target.as_str(), context: Some(&context), ..unread };
        let readings = match path::read(target.path()) {
            Ok(readings) => readings,
            Err(problem) => return finish(self.web.bad_path(&ask, problem), asker),
        };
        let target_of = |path: &str| {
            let view = RequestView {
                host: &context.host,
                path,
                method: &method,
                client: context.client,
                client_undeclared: context.client_undeclared,
            };
            Target { own: self.web.is_own(path), requirement: self.policy.requirement(&view) }
        };
        let requirement = match readings.agree(target_of) {
            Ok(Target { own: false, requirement }) => requirement,
            Ok(Target { own: true, .. }) => return finish(self.web.own_route(&ask), asker),
            Err(problem) => return finish(self.web.bad_path(&ask, problem), asker),
        };

        // The decision.
        let admitted = self.admit(&Wish { ask, context: &context, readings: &readings, requirement }, &mut called).await;
        let identity = called.identity();
        outcome.user = identity.map(|identity| identity.user);
        if let Err(refused) = admitted {
            outcome.decided = Some(refused.decided);
            return finish(refused.answer, asker);
        }

        // Yes. A session that is fit for enrolment only is nobody here.
        let announced = identity.filter(|identity| identity.fitness == Fitness::Full);
        outcome.decided = Some(if announced.is_some() { Decided::Allow } else { Decided::Public });
        let audience = proxy.route(context.host.as_str(), readings.shown()).map_or(AUDIENCE, |upstream| proxy.name(upstream));
        let assertion = match self.assertion_for(announced, audience, &method, &context, target.path()) {
            Ok(assertion) => assertion,
            Err(error) => {
                tracing::error!(%error, request_id = %context.request_id, "the assertion could not be signed");
                outcome.decided = Some(Decided::Unavailable);
                return finish(self.web.unavailable(&ask), asker);
            }
        };
        let mut answer = self.web.nothing();
        let headers = answer.headers_mut();
        self.announcement.set(headers, &head.headers, announced.map(|identity| &**identity), assertion.as_ref());
        if let Ok(id) = HeaderValue::from_str(&context.request_id) {
            headers.insert(X_REQUEST_ID, id);
        }
        if self.forward_token
            && announced.is_some()
            && !head.headers.contains_key(AUTHORIZATION)
            && let Some(token) = called.caller.token()
            && let Ok(mut bearer) = HeaderValue::try_from(format!("Bearer {token}"))
        {
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        if called.expire_cookies {
            for expired in self.web.expired_cookies() {
                headers.append(http::header::SET_COOKIE, expired);
            }
        } else if context::navigation(&method, &head.headers) == Navigation::Document && announced.is_some() {
            self.renew(&called.caller, &mut answer, context.now);
        }
        debug_assert!(announced.is_some() || requirement.access == Access::Public);
        answer
    }
}

/// A proxy that looks at the status alone gets nothing to read.
fn finish(mut answer: Response<Body>, asker: Asker) -> Response<Body> {
    match asker {
        Asker::ProxyByStatus => {
            answer.headers_mut().remove(CONTENT_TYPE);
            *answer.body_mut() = Body::empty();
        }
        Asker::Client | Asker::Proxy => {}
    }
    answer
}

/// The `code` of a doubt.
const fn code(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::HostNotAllowed => "misdirected_request",
        Doubt::ForgedIdentity => "forged_identity",
        Doubt::NoQuestion
        | Doubt::TwoQuestions
        | Doubt::Missing(_)
        | Doubt::Repeated(_)
        | Doubt::Malformed(_)
        | Doubt::Contradicts(_)
        | Doubt::Mode
        | Doubt::Override => "bad_forward_auth",
    }
}
