//! Header fields that say who somebody is or where a request came from: which names those are under all their
//! spellings, and what ours hold. Plus the hop-by-hop fields of RFC 9110, section 7.6.1.
//!
//! A framework that follows CGI (RFC 3875, section 4.1.18) reads `X_Forwarded_User` and `X-Forwarded-User` as the same
//! variable, some servers `X~Forwarded!User` too, so names are compared after [`fold`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue};

use crate::config::{Encoding, IdentityField, IdentityHeaders, Preset};
use crate::model::{Group, Identity};

/// The name as an upstream may read it: lower case, and whatever is neither letter nor digit as `-`.
pub fn fold(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| fold_byte(byte) != byte) {
        Cow::Owned(name.bytes().map(|byte| char::from(fold_byte(byte))).collect())
    } else {
        Cow::Borrowed(name)
    }
}

/// The names of all fields that could tell an upstream who somebody is: those of every preset, the configured ones
/// and everything that begins with `X-Nullpass-`.
#[derive(Clone, Debug)]
pub struct IdentityNames {
    /// Folded names by their length: nearly every other field is told apart by its length and first byte.
    by_length: Vec<Vec<Box<[u8]>>>,
}

/// Names that begin so are reserved for us, whether a configuration uses them or not (requirement ENV-1).
const RESERVED: &[u8] = b"x-nullpass-";

impl IdentityNames {
    /// From the configuration; names that it adds count for every upstream.
    pub fn new(config: &IdentityHeaders) -> Self {
        let presets = [Preset::Forwarded, Preset::Remote, Preset::AuthRequest, Preset::Authentik];
        let of_presets = presets.into_iter().flat_map(|preset| preset_names(preset).iter().map(|(name, _)| *name));
        let configured = config.headers.iter().map(|(name, _)| name.as_str());
        let assertion = config.assertion.iter().map(|assertion| assertion.header.as_str());
        let mut by_length: Vec<Vec<Box<[u8]>>> = Vec::new();
        for name in of_presets.chain(configured).chain(assertion) {
            let folded: Box<[u8]> = name.bytes().map(fold_byte).collect();
            if by_length.len() <= folded.len() {
                by_length.resize(folded.len() + 1, Vec::new());
            }
            if let Some(names) = by_length.get_mut(folded.len())
                && !names.contains(&folded)
            {
                names.push(folded);
            }
        }
        Self { by_length }
    }

    /// Whether an upstream could read `name` as one of these, however it is spelled (requirement HDR-1).
    pub fn is_identity_alias(&self, name: &HeaderName) -> bool {
        let name = name.as_str().as_bytes();
        starts_folded(name, RESERVED)
            || self.by_length.get(name.len()).is_some_and(|names| names.iter().any(|known| equals_folded(name, known)))
    }
}

/// Whether `name` says where a request came from or was meant to go, under any spelling (requirements FWD-3, FWD-5).
pub fn is_forwarding(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    match name.first() {
        Some(b'x') => {
            starts_folded(name, b"x-forwarded-")
                || starts_folded(name, b"x-original-")
                || starts_folded(name, b"x-rewrite-")
                || [&b"x-forwarded"[..], b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip"]
                    .iter()
                    .any(|known| equals_folded(name, known))
        }
        Some(b'f') => name == b"forwarded",
        Some(b't') => equals_folded(name, b"true-client-ip"),
        Some(_) | None => false,
    }
}

/// Whether `name` makes some servers take another path than the request line's (`X-Rewrite-URL`), under any spelling.
pub fn is_rewrite(name: &HeaderName) -> bool {
    starts_folded(name.as_str().as_bytes(), b"x-rewrite-")
}

/// Whether `name` makes some frameworks take another method than the request line's, under any spelling.
pub fn is_method_override(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    [&b"x-http-method"[..], b"x-http-method-override", b"x-method-override"].iter().any(|known| equals_folded(name, known))
}

/// Whether the name is spelled with bytes that [`fold`] changes, so that it can be an alias of another.
pub fn is_odd_spelling(name: &HeaderName) -> bool {
    name.as_str().bytes().any(|byte| fold_byte(byte) != byte)
}

/// Removes what concerns one connection only (RFC 9110, section 7.6.1), including the fields that `Connection` names.
///
/// `Connection` can't name away `Host`, the framing, or who asks and from where: an upstream that trusts us for those
/// must get them (requirement HDR-3). Ours are set after this all the same.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // While `Connection` is there to name them.
    for name in named_in_connection(headers) {
        headers.remove(name);
    }
    // A walk over a dozen names is cheaper than eight look-ups, and most heads hold one of these or none.
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name)).cloned() {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// The fields that `Connection` names and may name.
fn named_in_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for token in list_members(headers, &CONNECTION) {
        // The two tokens that nearly every request has name nothing that is not removed anyway.
        if token.eq_ignore_ascii_case("keep-alive") || token.eq_ignore_ascii_case("close") {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(token.as_bytes())
            && name != HOST
            && name != http::header::CONTENT_LENGTH
            && !is_forwarding(&name)
        {
            names.push(name);
        }
    }
    names
}

/// The members of a comma-separated list field, over all its lines, without the space around them. A line that is not
/// ASCII has none.
pub fn list_members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|member| !member.is_empty())
}

/// Identity header fields, ready to be set.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// Names and values; no empty value is among them.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// Values that were left out because they hold control characters.
    pub dropped: u64,
}

/// The header fields that tell an upstream who `identity` is, without the assertion, which differs for each request.
///
/// A fact that is unknown or empty is not announced (requirement HDR-2), nor is a value with control characters; `admin_group` is nobody's
/// business but ours.
pub fn prepare(identity: &Identity, preset: Preset, encoding: Encoding, config: &IdentityHeaders, admin_group: &Group) -> Prepared {
    let mut prepared = Prepared::default();
    let of_preset =
        preset_names(preset).iter().map(|(name, field)| (HeaderName::from_static(name), field.value(identity, config, admin_group)));
    let configured = config.headers.iter().map(|(name, field)| (name.clone(), value_of(field, identity, config, admin_group)));
    let mut values: BTreeMap<&str, Option<HeaderValue>> = BTreeMap::new();
    let all: Vec<(HeaderName, Option<String>)> = of_preset.chain(configured).collect();
    for (name, text) in &all {
        let Some(text) = text.as_deref().filter(|text| !text.is_empty()) else {
            continue;
        };
        let value = encode(text, encoding);
        if value.is_none() {
            prepared.dropped += 1;
        }
        // A name that is configured means what the configuration says, even if a preset has it too.
        values.insert(name.as_str(), value);
    }
    for (name, _) in &all {
        if let Some(Some(value)) = values.remove(name.as_str()) {
            prepared.fields.push((name.clone(), value));
        }
    }
    prepared
}

/// The names that carry the assertion: its own and those configured for it.
pub fn assertion_names(config: &IdentityHeaders) -> Vec<HeaderName> {
    let own = config.assertion.iter().map(|assertion| assertion.header.clone());
    own.chain(config.headers.iter().filter(|(_, field)| *field == IdentityField::Assertion).map(|(name, _)| name.clone())).collect()
}

/// The names of a preset in lower case, for telling a caller with nothing to announce that there is nothing.
pub fn names_of(preset: Preset) -> impl Iterator<Item = HeaderName> {
    preset_names(preset).iter().map(|(name, _)| HeaderName::from_static(name))
}

/// A fact that presets carry. What a person can edit freely is never a login name, so all of those are the address.
#[derive(Clone, Copy, Debug)]
enum Fact {
    Id,
    Email,
    Name,
    Groups,
}

impl Fact {
    fn value(self, identity: &Identity, config: &IdentityHeaders, admin_group: &Group) -> Option<String> {
        let field = match self {
            Self::Id => IdentityField::Id,
            Self::Email => IdentityField::Email,
            Self::Name => IdentityField::Name,
            Self::Groups => IdentityField::Groups,
        };
        value_of(&field, identity, config, admin_group)
    }
}

const fn preset_names(preset: Preset) -> &'static [(&'static str, Fact)] {
    match preset {
        Preset::Forwarded => &[
            ("x-forwarded-user", Fact::Email),
            ("x-forwarded-email", Fact::Email),
            ("x-forwarded-preferred-username", Fact::Email),
            ("x-forwarded-user-id", Fact::Id),
            ("x-forwarded-name", Fact::Name),
            ("x-forwarded-groups", Fact::Groups),
        ],
        // `X-Remote-User` is what applications read that take "Remote-User" through a header (Radicale's
        // `http_x_remote_user`); without the `X-` it would collide with CGI's own REMOTE_USER there.
        Preset::Remote => &[
            ("remote-user", Fact::Email),
            ("x-remote-user", Fact::Email),
            ("remote-email", Fact::Email),
            ("remote-name", Fact::Name),
            ("remote-groups", Fact::Groups),
        ],
        Preset::AuthRequest => &[
            ("x-auth-request-user", Fact::Email),
            ("x-auth-request-email", Fact::Email),
            ("x-auth-request-preferred-username", Fact::Email),
            ("x-auth-request-groups", Fact::Groups),
        ],
        Preset::Authentik => &[
            ("x-authentik-username", Fact::Email),
            ("x-authentik-email", Fact::Email),
            ("x-authentik-name", Fact::Name),
            ("x-authentik-uid", Fact::Id),
            ("x-authentik-groups", Fact::Groups),
        ],
        Preset::None => &[],
    }
}

fn value_of(field: &IdentityField, identity: &Identity, config: &IdentityHeaders, admin_group: &Group) -> Option<String> {
    match field {
        IdentityField::Id => Some(identity.user.to_string()),
        IdentityField::Email => Some(identity.email.as_str().to_owned()),
        IdentityField::Name => identity.display_name.as_ref().map(|name| name.as_str().to_owned()),
        IdentityField::Groups => Some(join_groups(identity, &config.groups_separator, admin_group)),
        IdentityField::Session => identity.session.map(|session| session.to_string()),
        IdentityField::Amr => Some(identity.amr.names().join(",")),
        IdentityField::Assertion => None,
        IdentityField::Attribute(key) => identity.attributes.get(key).cloned(),
    }
}

fn join_groups(identity: &Identity, separator: &str, admin_group: &Group) -> String {
    // A group that holds the separator would read as two: a group its members were never put into.
    let announced = |group: &&Group| *group != admin_group && (separator.is_empty() || !group.as_str().contains(separator));
    let names: Vec<&str> = identity.groups.iter().filter(announced).map(Group::as_str).collect();
    names.join(separator)
}

/// The bytes of `text` as a field value; `None`: it holds control characters (C0, DEL or C1).
fn encode(text: &str, encoding: Encoding) -> Option<HeaderValue> {
    /// `%` as well, or a value that looks encoded could not be told from one that is.
    const BEYOND_ASCII: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');
    if text.chars().any(char::is_control) {
        return None;
    }
    match encoding {
        Encoding::Utf8 => HeaderValue::from_bytes(text.as_bytes()).ok(),
        Encoding::Percent => {
            let encoded: Cow<'_, str> = percent_encoding::utf8_percent_encode(text, BEYOND_ASCII).into();
            HeaderValue::from_str(&encoded).ok()
        }
    }
}

const fn fold_byte(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// Whether `name`, folded, is `known`, which is folded already.
fn equals_folded(name: &[u8], known: &[u8]) -> bool {
    name.len() == known.len() && starts_folded(name, known)
}

fn starts_folded(name: &[u8], known: &[u8]) -> bool {
    name.len() >= known.len() && name.iter().zip(known).all(|(byte, known)| fold_byte(*byte) == *known)
}

#[cfg(test)]
mod tests;
