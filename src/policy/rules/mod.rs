//! The operator's rules: which [`Requirement`] a request meets, and what follows from it for the person who asks.
//! Both are pure. A request whose path has several readings is asked about once for each
//! ([`super::path::Readings::agree`]); requirements compare by what they demand.

use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

use super::glob::{Glob, GlobError};
use super::host::{Host, HostError, canonical_pattern};
use super::network::Networks;
use crate::clock::Timestamp;
use crate::config::{self, Access};
use crate::model::{Amr, Email, Fitness, Group, Identity};

/// All rules, in order. The first that matches applies; when none does, the default, which is never public by
/// accident: no rule opens anything by failing to match (requirement CFG-2).
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    default: Requirement,
}

impl Policy {
    /// Compiles the rules. All that is wrong with them is reported at once.
    pub fn new(default: Access, rules: &[config::Rule]) -> Result<Self, Vec<RuleError>> {
        let mut errors = Vec::new();
        let mut compiled = Vec::with_capacity(rules.len());
        for rule in rules {
            match Rule::new(rule) {
                Ok(rule) => compiled.push(rule),
                Err(problem) => errors.push(RuleError { rule: rule.name.clone(), problem }),
            }
        }
        let default = Requirement::of("default_policy", default);
        if errors.is_empty() { Ok(Self { rules: compiled, default }) } else { Err(errors) }
    }

    /// What this request needs.
    pub fn requirement(&self, request: &RequestView<'_>) -> &Requirement {
        self.rules.iter().find(|rule| rule.matches(request)).map_or(&self.default, |rule| &rule.requirement)
    }

    /// Whether any rule for `host` selects by method; then headers that override the method must not get through.
    pub fn has_method_rules_for(&self, host: &Host) -> bool {
        self.rules.iter().any(|rule| !rule.methods.is_empty() && rule.host.as_deref().is_none_or(|pattern| host.matches(pattern)))
    }
}

/// What rules select by.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The host.
    pub host: &'a Host,
    /// One reading of the path.
    pub path: &'a str,
    /// The method, which is compared exactly: a rule for GET does not stand for HEAD.
    pub method: &'a http::Method,
    /// The client's address.
    pub client: IpAddr,
    /// Whether `client` is in truth a proxy that nobody declared (`wire::context::Context::client_undeclared`). Then
    /// no rule by network makes anything public, or an ingress inside `10.0.0.0/8` would turn
    /// "public for our own network" into "public for everybody".
    pub client_undeclared: bool,
}

/// What a request needs. Two are equal when they demand the same; the name does not count.
#[derive(Clone, Debug)]
pub struct Requirement {
    /// The rule's name, or `default_policy`; for people.
    pub name: String,
    /// What it takes.
    pub access: Access,
    /// Who may: members of any of these. Everybody, if `users` is empty too.
    pub groups: Vec<Group>,
    /// Who may, by address.
    pub users: Vec<Email>,
    /// How long ago the person may have last proved who they are.
    pub max_auth_age: Option<Duration>,
    /// Whether Basic authentication is offered and taken.
    pub basic: bool,
    /// Whether unsafe requests from a foreign origin are let through with the cookie.
    pub cross_site: bool,
    /// Whether the upstream's `Cache-Control` is left alone.
    pub danger_shared_cache: bool,
}

impl Requirement {
    fn of(name: &str, access: Access) -> Self {
        Self {
            name: name.to_owned(),
            access,
            groups: Vec::new(),
            users: Vec::new(),
            max_auth_age: None,
            basic: false,
            cross_site: false,
            danger_shared_cache: false,
        }
    }

    /// What follows for the person who asks. `always_second_factor` is `two_factor.required = "always"`.
    ///
    /// The order: membership comes before a second factor and a fresh password, since it is unkind to ask for these
    /// and then refuse. A session that is fit for enrolment only comes before membership, since it can do nothing else.
    ///
    /// An API token was made with everything the account has, so it counts as a second factor where the account has
    /// one. It never counts as a fresh password.
    pub fn decide(&self, who: Option<&Identity>, always_second_factor: bool, now: Timestamp) -> Decision {
        let two_factor = match self.access {
            Access::Public => return Decision::Allow,
            Access::Deny => return Decision::Deny,
            Access::Authenticated => always_second_factor,
            Access::TwoFactor => true,
        };
        let Some(who) = who else { return Decision::SignIn };
        match who.fitness {
            Fitness::EnrolmentOnly => return Decision::EnrolSecondFactor,
            Fitness::Full => {}
        }
        if !self.admits(who) {
            return Decision::Deny;
        }
        let api_token = who.amr.has(Amr::API_TOKEN);
        if two_factor && !who.amr.second_factor() {
            if !who.has_second_factor {
                return Decision::EnrolSecondFactor;
            }
            if !api_token {
                return Decision::SecondFactor;
            }
        }
        match self.max_auth_age {
            Some(_) if api_token => Decision::Deny,
            Some(age) if now.since(who.auth_time) > age => Decision::FreshPassword,
            Some(_) | None => Decision::Allow,
        }
    }

    fn admits(&self, who: &Identity) -> bool {
        let anybody = self.groups.is_empty() && self.users.is_empty();
        anybody || self.groups.iter().any(|group| who.groups.contains(group)) || self.users.contains(&who.email)
    }
}

impl PartialEq for Requirement {
    fn eq(&self, other: &Self) -> bool {
        let Self { name: _, access, groups, users, max_auth_age, basic, cross_site, danger_shared_cache } = self;
        *access == other.access
            && *groups == other.groups
            && *users == other.users
            && *max_auth_age == other.max_auth_age
            && *basic == other.basic
            && *cross_site == other.cross_site
            && *danger_shared_cache == other.danger_shared_cache
    }
}

impl Eq for Requirement {}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is let through.
    Allow,
    /// Somebody has to sign in first.
    SignIn,
    /// The person has to give a second factor.
    SecondFactor,
    /// The person has to set up a second factor.
    EnrolSecondFactor,
    /// The person has to give the password again.
    FreshPassword,
    /// It is refused, and nothing the person could do changes that.
    Deny,
}

/// A rule that can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{rule}: {problem}")]
pub struct RuleError {
    /// Which.
    pub rule: String,
    /// Why.
    pub problem: RuleProblem,
}

/// What is wrong with a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RuleProblem {
    /// Its path.
    #[error("path: {0}")]
    Path(#[from] GlobError),
    /// Its host.
    #[error("host: {0}")]
    Host(#[from] HostError),
}

/// A [`config::Rule`], compiled.
#[derive(Clone, Debug)]
struct Rule {
    path: Option<Glob>,
    host: Option<String>,
    methods: Vec<http::Method>,
    networks: Networks,
    requirement: Requirement,
}

impl Rule {
    fn new(rule: &config::Rule) -> Result<Self, RuleProblem> {
        let mut groups = rule.groups.clone();
        groups.sort();
        groups.dedup();
        let mut users = rule.users.clone();
        users.sort();
        users.dedup();
        Ok(Self {
            path: rule.path.as_deref().map(Glob::parse).transpose()?,
            host: rule.host.as_deref().map(canonical_pattern).transpose()?,
            methods: rule.methods.clone(),
            networks: Networks::new(&rule.networks),
            requirement: Requirement {
                name: rule.name.clone(),
                access: rule.access,
                groups,
                users,
                max_auth_age: rule.max_auth_age,
                basic: rule.basic,
                cross_site: rule.cross_site,
                danger_shared_cache: rule.danger_shared_cache,
            },
        })
    }

    /// Whether all conditions hold. A public rule opens exactly the spelling it names; any other selects whatever
    /// the case, since the upstream may not tell `/Admin` from `/admin`.
    fn matches(&self, request: &RequestView<'_>) -> bool {
        let public = self.requirement.access == Access::Public;
        self.host.as_deref().is_none_or(|pattern| request.host.matches(pattern))
            && (self.methods.is_empty() || self.methods.contains(request.method))
            && (self.networks.is_empty() || (self.networks.contains(request.client) && !(public && request.client_undeclared)))
            && self.path.as_ref().is_none_or(|glob| glob.matches(request.path, !public))
    }
}

#[cfg(test)]
mod tests;
