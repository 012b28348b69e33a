use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use proptest::prelude::*;

use super::*;
use crate::model::{Slot, UserId};
use crate::policy::path;

const NOW: Timestamp = Timestamp::from_secs(1_000_000);

fn rule(access: Access, path: &str) -> config::Rule {
    config::Rule::new(format!("rule {path}"), path, access)
}

fn requirement(access: Access) -> Requirement {
    Requirement::of("test", access)
}

fn identity() -> Identity {
    Identity {
        user: UserId::new(),
        email: Email::parse("ann@example.com").unwrap(),
        display_name: None,
        groups: BTreeSet::from([Group::parse("staff").unwrap()]),
        attributes: BTreeMap::new(),
        has_second_factor: false,
        session: None,
        amr: Amr::PASSWORD,
        auth_time: NOW.minus(Duration::from_mins(10)),
        fitness: Fitness::Full,
        slot: Slot::default(),
    }
}

struct Asked {
    host: &'static str,
    path: &'static str,
    method: Method,
    client: &'static str,
    undeclared: bool,
}

impl Default for Asked {
    fn default() -> Self {
        Self { host: "app.example.com", path: "/", method: Method::GET, client: "192.0.2.1", undeclared: false }
    }
}

fn access(policy: &Policy, asked: &Asked) -> Result<Access, path::PathError> {
    let host = Host::parse(asked.host).unwrap().0;
    path::read(asked.path)?
        .agree(|path| {
            policy.requirement(&RequestView {
                host: &host,
                path,
                method: &asked.method,
                client: asked.client.parse().unwrap(),
                client_undeclared: asked.undeclared,
            })
        })
        .map(|requirement| requirement.access)
}

fn at(policy: &Policy, path: &'static str) -> Result<Access, path::PathError> {
    access(policy, &Asked { path, ..Asked::default() })
}

#[test]
fn the_first_rule_that_matches_applies() {
    let rules = [rule(Access::Deny, "/a/secret/**"), rule(Access::Public, "/a/**"), rule(Access::TwoFactor, "/a/**")];
    let policy = Policy::new(Access::Authenticated, &rules).unwrap();
    assert_eq!(at(&policy, "/a/x"), Ok(Access::Public));
    assert_eq!(at(&policy, "/a/secret"), Ok(Access::Deny));
    assert_eq!(at(&policy, "/a/Secret/x"), Ok(Access::Deny));
    assert_eq!(at(&policy, "/b"), Ok(Access::Authenticated));
}

// CFG-2: what matches nothing is never open.
#[test]
fn a_miss_never_opens() {
    for default in [Access::Authenticated, Access::TwoFactor, Access::Deny] {
        let policy = Policy::new(default, &[rule(Access::Public, "/public/**")]).unwrap();
        for path in ["/", "/publi", "/publicx", "/Public/x", "/PUBLIC", "/x/public/y"] {
            assert_eq!(at(&policy, path), Ok(default), "{path}");
        }
    }
}

// PATH-3, PATH-4, PATH-5, PATH-6: no spelling reaches a weaker rule.
#[test]
fn no_spelling_of_a_path_reaches_a_weaker_rule() {
    let rules = [rule(Access::Public, "/public/**"), rule(Access::Deny, "/admin/**")];
    let policy = Policy::new(Access::Authenticated, &rules).unwrap();
    for path in ["/public%2f..%2fadmin", "/public/..;/admin", "/public/%2e%2e/admin", "/public\\..\\admin", "/public/%252e%252e/admin"] {
        assert_eq!(at(&policy, path), Err(path::PathError::DotSegment), "{path}");
    }
    for path in [
        "//public/x",
        "/public%2Fx",
        "/;/public/x",
        "/public;x",
        "/admin;x",
        "//admin",
        "/admin%2fx",
        "/admin\\x",
        "/%5cadmin",
        "/;%2fadmin",
    ] {
        assert!(matches!(at(&policy, path), Err(path::PathError::Ambiguous)), "{path}: {:?}", at(&policy, path));
    }
    for path in ["/%61dmin", "/ADMIN", "/%41dmin/x", "/admin/x;y", "/admin//x", "/admin/a%2Fb"] {
        assert_eq!(at(&policy, path), Ok(Access::Deny), "{path}");
    }
    // PATH-1: what follows an encoded `#` or `?` is part of the path, but for who parses it once more.
    assert_eq!(at(&policy, "/x%3f/public/"), Ok(Access::Authenticated));
    assert_eq!(at(&policy, "/public/x%23/y"), Ok(Access::Public));
    for path in ["/admin%23/public/", "/public%3fx", "//x/admin"] {
        assert_eq!(at(&policy, path), Err(path::PathError::Ambiguous), "{path}");
    }
    // GitLab, Java, S3.
    assert_eq!(at(&policy, "/api/v4/projects/group%2Fproject/x"), Ok(Access::Authenticated));
    assert_eq!(at(&policy, "/shop;jsessionid=A1"), Ok(Access::Authenticated));
    assert_eq!(at(&policy, "/bucket//key"), Ok(Access::Authenticated));
}

#[test]
fn every_condition_must_hold() {
    let mut only = rule(Access::Public, "/x");
    only.host = Some("*.Example.com.".to_owned());
    only.methods = vec![Method::GET];
    only.networks = vec!["10.0.0.0/8".parse().unwrap(), "::ffff:172.16.0.0/108".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let policy = Policy::new(Access::Deny, &[only]).unwrap();
    let good = || Asked { path: "/x", client: "10.1.2.3", ..Asked::default() };
    assert_eq!(access(&policy, &good()), Ok(Access::Public));
    // HOST-1
    assert_eq!(access(&policy, &Asked { host: "APP.EXAMPLE.COM.:80", ..good() }), Ok(Access::Public));
    for client in ["::ffff:10.1.2.3", "172.16.0.1", "::ffff:172.31.0.1", "fd00::1"] {
        assert_eq!(access(&policy, &Asked { client, ..good() }), Ok(Access::Public), "{client}");
    }
    for bad in [
        Asked { path: "/y", ..good() },
        Asked { host: "example.com", ..good() },
        Asked { method: Method::HEAD, ..good() },
        Asked { method: Method::from_bytes(b"get").unwrap(), ..good() },
        Asked { client: "11.0.0.1", ..good() },
        Asked { client: "::1", ..good() },
        // FAIL-3: who the client is can't be told.
        Asked { undeclared: true, ..good() },
    ] {
        assert_eq!(access(&policy, &bad), Ok(Access::Deny));
    }
}

#[test]
fn an_undeclared_proxy_does_not_escape_a_rule_that_asks_for_more() {
    let mut only = rule(Access::Deny, "/**");
    only.networks = vec!["10.0.0.0/8".parse().unwrap()];
    let policy = Policy::new(Access::Authenticated, &[only]).unwrap();
    assert_eq!(access(&policy, &Asked { client: "10.1.2.3", undeclared: true, ..Asked::default() }), Ok(Access::Deny));
}

#[test]
fn every_faulty_rule_is_reported() {
    let mut host = rule(Access::Public, "/a");
    host.host = Some("a b".to_owned());
    let errors = Policy::new(Access::Deny, &[rule(Access::Public, "a"), rule(Access::Public, "/b"), host]).unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["rule a: path: a path begins with a slash", "rule /a: host: not a valid host"]);
}

#[test]
fn requirements_compare_by_what_they_demand() {
    let mut one = rule(Access::Authenticated, "/a");
    one.groups = vec![Group::parse("b").unwrap(), Group::parse("a").unwrap(), Group::parse("a").unwrap()];
    let mut other = rule(Access::Authenticated, "/b");
    other.groups = vec![Group::parse("a").unwrap(), Group::parse("b").unwrap()];
    let of = |rule: &config::Rule| Rule::new(rule).unwrap().requirement;
    assert_eq!(of(&one), of(&other));
    let changes: [fn(&mut config::Rule); 7] = [
        |rule| rule.access = Access::TwoFactor,
        |rule| rule.groups.clear(),
        |rule| rule.users = vec![Email::parse("a@example.com").unwrap()],
        |rule| rule.max_auth_age = Some(Duration::ZERO),
        |rule| rule.basic = true,
        |rule| rule.cross_site = true,
        |rule| rule.danger_shared_cache = true,
    ];
    for change in changes {
        let mut changed = other.clone();
        change(&mut changed);
        assert_ne!(of(&changed), of(&one));
    }
}

#[test]
fn method_rules_are_found_by_host() {
    let host = |name: &str| Host::parse(name).unwrap().0;
    let mut get = rule(Access::Public, "/a");
    get.methods = vec![Method::GET];
    get.host = Some("a.example".to_owned());
    let policy = Policy::new(Access::Deny, &[rule(Access::Public, "/b"), get.clone()]).unwrap();
    assert!(policy.has_method_rules_for(&host("a.example")));
    assert!(!policy.has_method_rules_for(&host("b.example")));
    get.host = None;
    assert!(Policy::new(Access::Deny, &[get]).unwrap().has_method_rules_for(&host("b.example")));
}

#[test]
fn who_gets_through() {
    let signed_in = identity();
    for (access, who, expected) in [
        (Access::Public, None, Decision::Allow),
        (Access::Public, Some(&signed_in), Decision::Allow),
        (Access::Authenticated, None, Decision::SignIn),
        (Access::Authenticated, Some(&signed_in), Decision::Allow),
        (Access::TwoFactor, None, Decision::SignIn),
        (Access::TwoFactor, Some(&signed_in), Decision::EnrolSecondFactor),
        (Access::Deny, None, Decision::Deny),
        (Access::Deny, Some(&signed_in), Decision::Deny),
    ] {
        assert_eq!(requirement(access).decide(who, false, NOW), expected, "{access:?}");
    }
    assert_eq!(requirement(Access::Authenticated).decide(Some(&signed_in), true, NOW), Decision::EnrolSecondFactor);
    assert_eq!(requirement(Access::Public).decide(None, true, NOW), Decision::Allow);
}

#[test]
fn second_factors() {
    let two_factor = requirement(Access::TwoFactor);
    let with = |amr, has_second_factor| Identity { has_second_factor, amr, ..identity() };
    assert_eq!(two_factor.decide(Some(&with(Amr::PASSWORD, true)), false, NOW), Decision::SecondFactor);
    assert_eq!(two_factor.decide(Some(&with(Amr::PASSWORD.and(Amr::OTP), true)), false, NOW), Decision::Allow);
    assert_eq!(two_factor.decide(Some(&with(Amr::PASSWORD.and(Amr::RECOVERY), true)), false, NOW), Decision::Allow);
    assert_eq!(two_factor.decide(Some(&with(Amr::API_TOKEN, true)), false, NOW), Decision::Allow);
    assert_eq!(two_factor.decide(Some(&with(Amr::API_TOKEN, false)), false, NOW), Decision::EnrolSecondFactor);
    let enrolling = Identity { fitness: Fitness::EnrolmentOnly, ..identity() };
    for access in [Access::Authenticated, Access::TwoFactor] {
        assert_eq!(requirement(access).decide(Some(&enrolling), false, NOW), Decision::EnrolSecondFactor);
    }
}

#[test]
fn members_only() {
    let who = identity();
    let group = |name: &str| vec![Group::parse(name).unwrap()];
    let user = |name: &str| vec![Email::parse(name).unwrap()];
    let decide = |groups, users| Requirement { groups, users, ..requirement(Access::Authenticated) }.decide(Some(&who), false, NOW);
    assert_eq!(decide(group("staff"), vec![]), Decision::Allow);
    assert_eq!(decide(group("admins"), vec![]), Decision::Deny);
    assert_eq!(decide(group("Staff"), vec![]), Decision::Deny);
    assert_eq!(decide(group("admins"), user("Ann@example.com")), Decision::Allow);
    assert_eq!(decide(vec![], user("bob@example.com")), Decision::Deny);
    let admins = Requirement { groups: group("admins"), ..requirement(Access::TwoFactor) };
    assert_eq!(admins.decide(Some(&who), false, NOW), Decision::Deny);
    assert_eq!(admins.decide(None, false, NOW), Decision::SignIn);
}

#[test]
fn fresh_passwords() {
    let decide = |age, amr| {
        let who = Identity { amr, has_second_factor: true, ..identity() };
        Requirement { max_auth_age: Some(Duration::from_secs(age)), ..requirement(Access::Authenticated) }.decide(Some(&who), false, NOW)
    };
    assert_eq!(decide(600, Amr::PASSWORD), Decision::Allow);
    assert_eq!(decide(599, Amr::PASSWORD), Decision::FreshPassword);
    assert_eq!(decide(599, Amr::API_TOKEN), Decision::Deny);
    assert_eq!(decide(6000, Amr::API_TOKEN), Decision::Deny);
}

fn any_access() -> impl Strategy<Value = Access> {
    prop::sample::select(vec![Access::Public, Access::Authenticated, Access::TwoFactor, Access::Deny])
}

proptest! {
    // FAIL-1's property: nobody without an identity gets past a rule that is not public.
    #[test]
    fn no_identity_no_entry(access in any_access(), always in any::<bool>(), grouped in any::<bool>(), age in any::<Option<u32>>()) {
        let requirement = Requirement {
            groups: if grouped { vec![Group::parse("g").unwrap()] } else { vec![] },
            max_auth_age: age.map(|secs| Duration::from_secs(secs.into())),
            ..requirement(access)
        };
        prop_assert_eq!(requirement.decide(None, always, NOW) == Decision::Allow, access == Access::Public);
    }

    // Every spelling of a protected path is refused or meets the protecting rule.
    #[test]
    fn case_never_leaves_a_protected_path(flips in any::<u16>(), below in "(/[a-z]{0,3}){0,2}") {
        let policy = Policy::new(Access::Authenticated, &[rule(Access::TwoFactor, "/admin/**"), rule(Access::Public, "/**")]).unwrap();
        let flip = |(at, c): (usize, char)| if flips >> at & 1 == 1 { c.to_ascii_uppercase() } else { c };
        let path = format!("/{}{below}", "admin".chars().enumerate().map(flip).collect::<String>());
        let host = Host::parse("h").unwrap().0;
        let view = RequestView { host: &host, path: &path, method: &Method::GET, client: [127, 0, 0, 1].into(), client_undeclared: false };
        prop_assert_eq!(policy.requirement(&view).access, Access::TwoFactor);
    }
}
