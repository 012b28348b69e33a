use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::config::Assertion;
use crate::model::{Amr, DisplayName, Email, Fitness, SessionId, Slot, UserId};

fn config() -> IdentityHeaders {
    IdentityHeaders {
        preset: Preset::Forwarded,
        encoding: Encoding::Utf8,
        headers: vec![
            (HeaderName::from_static("x-tenant"), IdentityField::Attribute("tenant".to_owned())),
            (HeaderName::from_static("x-how"), IdentityField::Amr),
        ],
        groups_separator: ",".to_owned(),
        forward_token: false,
        assertion: Some(Assertion { header: HeaderName::from_static("x-proof"), ttl: std::time::Duration::from_mins(1) }),
    }
}

fn group(name: &str) -> Group {
    Group::parse(name).unwrap()
}

fn identity() -> Identity {
    Identity {
        user: UserId::new(),
        email: Email::parse("ann@example.com").unwrap(),
        display_name: Some(DisplayName::parse("Zoë 100%").unwrap()),
        groups: [group("staff"), group("nullpass-admin"), group("dev ops")].into(),
        attributes: BTreeMap::from([("tenant".to_owned(), "acme".to_owned())]),
        has_second_factor: false,
        session: Some(SessionId::new()),
        amr: Amr::PASSWORD.and(Amr::OTP),
        auth_time: Timestamp::from_secs(1),
        fitness: Fitness::Full,
        slot: Slot::default(),
    }
}

fn prepared(identity: &Identity, preset: Preset, encoding: Encoding) -> Vec<(String, Vec<u8>)> {
    let prepared = prepare(identity, preset, encoding, &config(), &group("nullpass-admin"));
    prepared.fields.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

fn name(text: &str) -> HeaderName {
    HeaderName::from_bytes(text.as_bytes()).unwrap()
}

// HDR-1
#[test]
fn knows_identity_names_under_all_spellings() {
    let names = IdentityNames::new(&config());
    for alias in [
        "X-Forwarded-User",
        "x_forwarded_user",
        "X.Forwarded_User",
        "x-forwarded-user-id",
        "REMOTE_USER",
        "remote.groups",
        "X-authentik-Username",
        "x_auth_request_preferred_username",
        "x-tenant",
        "X_Tenant",
        "x.how",
        "X_Proof",
        "x-nullpass-assertion",
        "X_NullPass_Anything",
        "x~forwarded!user",
        "X*Tenant",
    ] {
        assert!(names.is_identity_alias(&name(alias)), "{alias}");
    }
    for other in
        ["host", "x-forwarded-for", "x-forwarded-use", "x-forwarded-users", "remote-addr", "cookie", "x-tenants", "x-nullpas", "xtenant"]
    {
        assert!(!names.is_identity_alias(&name(other)), "{other}");
    }
}

// FWD-5
#[test]
fn knows_forwarding_names_under_all_spellings() {
    for forwarding in [
        "X-Forwarded-For",
        "x_forwarded_proto",
        "X.Forwarded.Prefix",
        "X-Forwarded-Anything",
        "x_forwarded",
        "Forwarded",
        "X-Real-IP",
        "x_real_ip",
        "X-Original-URL",
        "x_original_uri",
        "X-Rewrite-URL",
        "x.rewrite.url",
        "True-Client-IP",
        "true_client_ip",
        "X-Client-IP",
        "X_Cluster_Client_IP",
    ] {
        assert!(is_forwarding(&name(forwarding)), "{forwarding}");
    }
    for other in ["x-forward", "forward", "x-real-ips", "true-client", "x-requested-with", "from", "te"] {
        assert!(!is_forwarding(&name(other)), "{other}");
    }
    assert!(
        is_method_override(&name("x_http_method_override"))
            && is_method_override(&name("X-Method.Override"))
            && is_method_override(&name("X-HTTP-Method"))
    );
    assert!(!is_method_override(&name("x-http-methods")));
}

proptest! {
    // HDR-1: the test by length and in place finds what folding and comparing finds.
    #[test]
    fn is_identity_alias_agrees_with_fold(text in "[xXrR]([-_.~!]|[a-zA-Z]){3,24}|x[-_.*]forwarded[-_.|](user|email|groups)|x[-_+]nullpass[-.~]?[a-z-]{0,4}") {
        let names = IdentityNames::new(&config());
        let candidate = name(&text);
        let folded = fold(candidate.as_str());
        let known = names.by_length.iter().flatten().any(|known| known.as_ref() == folded.as_bytes()) || folded.starts_with("x-nullpass-");
        prop_assert_eq!(names.is_identity_alias(&candidate), known);
    }

    // HDR-1, FWD-5: the tests in place find what folding first and comparing texts finds.
    #[test]
    fn the_other_names_agree_with_fold(text in "[xXfFtT][-_.~]?(forwarded|original|rewrite|real|client|cluster|ue|orwarded|http|method)([-_.!](ip|for|url|method|client|override)){0,3}[-_.]?") {
        let candidate = name(&text);
        let folded: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
        let whole = ["forwarded", "x-forwarded", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip"];
        let forwarding = whole.contains(&&*folded) || ["x-forwarded-", "x-original-", "x-rewrite-"].iter().any(|start| folded.starts_with(start));
        prop_assert_eq!(is_forwarding(&candidate), forwarding);
        prop_assert_eq!(is_method_override(&candidate), ["x-http-method", "x-http-method-override", "x-method-override"].contains(&&*folded));
        prop_assert_eq!(is_odd_spelling(&candidate), candidate.as_str() != folded);
        prop_assert_eq!(fold(&text), folded);
    }

    // HDR-3: one walk for all the fixed names leaves what removing each by its name leaves.
    #[test]
    fn hop_by_hop_fields_go_as_if_removed_one_by_one(
        fields in prop::collection::vec(("Connection|connection|Keep-Alive|TE|upgrade|Transfer-Encoding|proxy-authorization|X-A|x-b|Host|X-Forwarded-For", "(close|keep-alive|X-A|x-b|Host|X-Forwarded-For|upgrade|,| ){0,4}"), 0..8),
    ) {
        let mut headers = HeaderMap::new();
        for (field, value) in &fields {
            headers.append(name(field), value.parse().unwrap());
        }
        let mut naive = headers.clone();
        let named: Vec<String> = naive.get_all(CONNECTION).iter().flat_map(|line| line.to_str().unwrap().split(',')).map(|member| member.trim().to_ascii_lowercase()).collect();
        for member in named.iter().filter(|member| ["x-a", "x-b", "upgrade", "keep-alive"].contains(&member.as_str())) {
            naive.remove(member.as_str());
        }
        for fixed in ["connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "transfer-encoding", "upgrade"] {
            naive.remove(fixed);
        }
        strip_hop_by_hop(&mut headers);
        prop_assert_eq!(headers, naive);
    }

    // A value that could end the field or the line is never sent; every other is what was asked for.
    #[test]
    fn no_control_character_is_ever_sent(text in "\\PC*|.*[\\x00-\\x1f\\x7f\u{80}-\u{9f}].*") {
        for encoding in [Encoding::Utf8, Encoding::Percent] {
            match encode(&text, encoding) {
                None => prop_assert!(text.chars().any(char::is_control)),
                Some(value) => {
                    prop_assert!(value.as_bytes().iter().all(|byte| *byte >= 0x20 && *byte != 0x7f));
                    let decoded = percent_encoding::percent_decode(value.as_bytes()).decode_utf8_lossy().into_owned();
                    prop_assert_eq!(if encoding == Encoding::Percent { decoded } else { String::from_utf8(value.as_bytes().to_vec()).unwrap() }, text.clone());
                }
            }
        }
    }
}

#[test]
fn folding_costs_nothing_where_there_is_nothing_to_fold() {
    assert!(matches!(fold("user-agent"), Cow::Borrowed("user-agent")));
    assert_eq!(fold("X_For.ward"), "x-for-ward");
}

#[test]
fn each_preset_says_what_the_contract_says() {
    let identity = identity();
    let id = identity.user.to_string().into_bytes();
    let name = "Zoë 100%".as_bytes().to_vec();
    let (mail, groups, tenant, how) = (b"ann@example.com".to_vec(), b"dev ops,staff".to_vec(), b"acme".to_vec(), b"pwd,otp,mfa".to_vec());
    let own = [("x-tenant".to_owned(), tenant), ("x-how".to_owned(), how)];
    let expected = [
        (
            Preset::Forwarded,
            vec![
                ("x-forwarded-user", &mail),
                ("x-forwarded-email", &mail),
                ("x-forwarded-preferred-username", &mail),
                ("x-forwarded-user-id", &id),
                ("x-forwarded-name", &name),
                ("x-forwarded-groups", &groups),
            ],
        ),
        (
            Preset::Remote,
            vec![
                ("remote-user", &mail),
                ("x-remote-user", &mail),
                ("remote-email", &mail),
                ("remote-name", &name),
                ("remote-groups", &groups),
            ],
        ),
        (
            Preset::AuthRequest,
            vec![
                ("x-auth-request-user", &mail),
                ("x-auth-request-email", &mail),
                ("x-auth-request-preferred-username", &mail),
                ("x-auth-request-groups", &groups),
            ],
        ),
        (
            Preset::Authentik,
            vec![
                ("x-authentik-username", &mail),
                ("x-authentik-email", &mail),
                ("x-authentik-name", &name),
                ("x-authentik-uid", &id),
                ("x-authentik-groups", &groups),
            ],
        ),
        (Preset::None, vec![]),
    ];
    for (preset, fields) in expected {
        let mut fields: Vec<(String, Vec<u8>)> = fields.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
        fields.extend(own.clone());
        assert_eq!(prepared(&identity, preset, Encoding::Utf8), fields, "{preset:?}");
    }
}

#[test]
fn percent_encoding_can_be_undone() {
    let fields = prepared(&identity(), Preset::Remote, Encoding::Percent);
    assert!(fields.contains(&("remote-name".to_owned(), b"Zo%C3%AB 100%25".to_vec())), "{fields:?}");
    assert!(fields.contains(&("remote-user".to_owned(), b"ann@example.com".to_vec())));
}

// HDR-2
#[test]
fn an_unknown_or_empty_fact_is_not_announced() {
    let mut identity = identity();
    identity.display_name = None;
    identity.groups = [group("nullpass-admin")].into();
    identity.attributes.insert("tenant".to_owned(), String::new());
    let names: Vec<String> = prepared(&identity, Preset::Remote, Encoding::Utf8).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["remote-user", "x-remote-user", "remote-email", "x-how"]);
}

#[test]
fn a_value_with_control_characters_is_dropped_and_counted() {
    for bad in ["acme\r\nX-Admin: 1", "a\0b", "a\u{85}b", "\t"] {
        let mut identity = identity();
        identity.attributes.insert("tenant".to_owned(), bad.to_owned());
        for encoding in [Encoding::Utf8, Encoding::Percent] {
            let prepared = prepare(&identity, Preset::None, encoding, &config(), &group("nullpass-admin"));
            assert_eq!(prepared.dropped, 1);
            assert!(prepared.fields.iter().all(|(name, _)| name != "x-tenant"));
        }
    }
}

#[test]
fn a_group_that_holds_the_separator_is_not_announced() {
    let mut config = config();
    config.groups_separator = " ".to_owned();
    assert_eq!(join_groups(&identity(), &config.groups_separator, &group("nullpass-admin")), "staff");
}

#[test]
fn a_configured_name_beats_the_presets_own() {
    let mut config = config();
    config.headers = vec![(HeaderName::from_static("remote-user"), IdentityField::Id)];
    let identity = identity();
    let prepared = prepare(&identity, Preset::Remote, Encoding::Utf8, &config, &group("nullpass-admin"));
    let users: Vec<_> =
        prepared.fields.iter().filter(|(name, _)| name == "remote-user").map(|(_, value)| value.to_str().unwrap()).collect();
    assert_eq!(users, [identity.user.to_string()]);
}

// HDR-3
#[test]
fn connection_names_away_only_what_is_the_clients_own() {
    let mut headers = HeaderMap::new();
    for (field, value) in [
        ("connection", "keep-alive, x-private, Host, content-length, X-Forwarded-For"),
        ("connection", "te,, x-other"),
        ("host", "a"),
        ("content-length", "0"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-private", "1"),
        ("x-other", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic x"),
        ("transfer-encoding", "chunked"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("trailer", "x-sum"),
        ("accept", "*/*"),
    ] {
        headers.append(name(field), HeaderValue::from_static(value));
    }
    strip_hop_by_hop(&mut headers);
    let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["accept", "content-length", "host", "trailer", "x-forwarded-for"]);
}
