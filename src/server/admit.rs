//! STEPS 4 AND 5 of a request's life: is whoever asks let through? The one place that says so, for the requests that are
//! forwarded and for those that another proxy asks about.

use std::net::IpAddr;
use std::sync::Arc;

use http::Method;
use http::header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};

use super::caller::Called;
use super::gateway::Gateway;
use crate::auth;
use crate::auth::basic::BasicOutcome;
use crate::auth::live::LiveApiToken;
use crate::auth::recognise::Recognised;
use crate::config::Access;
use crate::policy::path::Readings;
use crate::policy::rules::{Decision, Requirement};
use crate::telemetry::metrics::Decided;
use crate::web::{Ask, Caller};
use crate::wire::body::Body;
use crate::wire::context::{self, Context, Source};

/// A request that somebody wants to make.
pub(super) struct Wish<'a> {
    /// Its method, head and target, for the answer if it is refused.
    pub(super) ask: Ask<'a>,
    /// Its circumstances.
    pub(super) context: &'a Context,
    /// What its path can mean.
    pub(super) readings: &'a Readings<'a>,
    /// What it takes, in every reading.
    pub(super) requirement: &'a Requirement,
}

/// Why a request is not let through, and what its sender is told.
pub(super) struct Refused {
    pub(super) decided: Decided,
    pub(super) answer: http::Response<Body>,
    /// Signing in is what it takes, or the password or code once more: a form that a person sent by their cookie is kept for
    /// afterwards.
    pub(super) keeps: bool,
}

impl Gateway {
    /// Lets the request through, or says no. `called` is then whoever counts as having asked: see [`Called::identity`].
    pub(super) async fn admit(&self, wish: &Wish<'_>, called: &mut Called) -> Result<(), Box<Refused>> {
        let Wish { ask, context, readings, requirement } = *wish;
        let refused = |decided, answer| Err(Box::new(Refused { decided, answer, keeps: false }));
        if let Err(error) = self.take_basic(called, requirement, &ask, context).await {
            return refused(Decided::Challenge, self.web.failed(&ask, &error));
        }
        // A page of another site may not act with what somebody's browser sends by itself: it is as if nothing had come,
        // and where something is needed the answer says why.
        called.foreign = called.is_ambient() && !requirement.cross_site && self.acts_from_elsewhere(&ask, context);
        if called.foreign && requirement.access != Access::Public {
            return refused(Decided::Deny, self.web.denied(&ask, "cross_site"));
        }
        match &called.caller {
            Caller::Refused => return refused(Decided::Challenge, self.web.sign_in_required(&ask, requirement.basic, false)),
            Caller::StoreAway if requirement.access != Access::Public => {
                return refused(Decided::Unavailable, self.web.unavailable(&ask));
            }
            Caller::ApiToken { token, .. } if !in_scope(token, readings, ask.method, context.client) => {
                return refused(Decided::Deny, self.web.denied(&ask, "token_scope"));
            }
            Caller::ApiToken { .. } | Caller::Basic(_) | Caller::Session { .. } | Caller::StoreAway | Caller::Nobody => {}
        }
        let by_cookie = !called.ours_in_header;
        let kept = |answer| Err(Box::new(Refused { decided: Decided::Challenge, answer, keeps: by_cookie }));
        // What it takes: pure, from the rule, the identity and the clock.
        let who = called.identity().map(|identity| &**identity);
        match requirement.decide(who, self.always_second_factor, context.now) {
            Decision::Allow => Ok(()),
            Decision::SignIn => {
                let answer = self.web.sign_in_required(&ask, requirement.basic, called.expire_cookies);
                kept(answer)
            }
            Decision::SecondFactor => kept(self.web.second_factor_required(&ask)),
            Decision::EnrolSecondFactor => refused(Decided::Challenge, self.web.enrolment_required(&ask)),
            Decision::FreshPassword => kept(self.web.fresh_password_required(&ask)),
            Decision::Deny => refused(Decided::Deny, self.web.denied(&ask, "forbidden")),
        }
    }

    /// Basic credentials, where the rule takes them. Elsewhere they belong to the upstream, unless they are ours.
    async fn take_basic(
        &self,
        called: &mut Called,
        requirement: &Requirement,
        ask: &Ask<'_>,
        context: &Context,
    ) -> Result<(), auth::Error> {
        if !requirement.basic {
            return Ok(());
        }
        let Some((user, password)) = called.basic.take() else { return Ok(()) };
        called.ours_in_header = true;
        called.expire_cookies = false;
        called.by_basic = true;
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
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// Whether a page of another site made the browser send this, and it would change something or open a channel.
    fn acts_from_elsewhere(&self, ask: &Ask<'_>, context: &Context) -> bool {
        let safe = matches!(*ask.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        // A proxy that asks about a WebSocket's handshake leaves the hop-by-hop `Upgrade` out, and where the handshake came
        // over HTTP/2 there is no key either (RFC 6455, section 4.1; RFC 8441, section 5).
        let upgrades = [UPGRADE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION].iter().any(|name| ask.headers.contains_key(name));
        (!safe || upgrades) && context::source(ask.headers, context, &self.context) == Source::Foreign
    }
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
