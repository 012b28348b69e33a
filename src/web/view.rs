//! What of our records a client may see. No record is ever serialised itself: what is not named here does not get out
//! (requirement NP-7).

use serde_json::{Value, json};

use crate::auth::SessionView;
use crate::auth::audit::EventView;
use crate::model::{ApiToken, AvatarUrl, DisplayName, Group, Outcome, SessionId, User};

/// An account after registering.
pub(super) fn new_user(user: &User) -> Value {
    json!({
        "id": user.id.to_string(),
        "email": user.email.as_str(),
        "displayName": user.display_name.as_ref().map(DisplayName::as_str),
        "createdAt": user.created_at.to_string(),
    })
}

/// An account after signing in.
pub(super) fn signed_in_user(user: &User) -> Value {
    json!({
        "id": user.id.to_string(),
        "email": user.email.as_str(),
        "displayName": user.display_name.as_ref().map(DisplayName::as_str),
        "avatar": user.avatar.as_ref().map(AvatarUrl::as_str),
    })
}

/// An account as its owner sees it.
pub(super) fn profile(user: &User) -> Value {
    json!({
        "id": user.id.to_string(),
        "email": user.email.as_str(),
        "displayName": user.display_name.as_ref().map(DisplayName::as_str),
        "avatar": user.avatar.as_ref().map(AvatarUrl::as_str),
        "twoFactorEnabled": user.has_second_factor(),
        "groups": groups(user),
        "createdAt": user.created_at.to_string(),
        "updatedAt": user.updated_at.to_string(),
    })
}

/// The names of an account's groups.
pub(super) fn groups(user: &User) -> Vec<&str> {
    user.groups.iter().map(Group::as_str).collect()
}

/// A session as its owner sees it.
pub(super) fn session(view: &SessionView, current: SessionId) -> Value {
    let session = &view.session;
    json!({
        "id": session.id.to_string(),
        "ip": view.ip,
        "userAgent": view.user_agent,
        "createdAt": session.created_at.to_string(),
        "lastSeenAt": session.last_seen_at.to_string(),
        "expiresAt": session.expires_at.to_string(),
        "current": session.id == current,
    })
}

/// An API token as its owner sees it; never its secret, which nobody has any more.
pub(super) fn api_token(token: &ApiToken) -> Value {
    json!({
        "id": token.id.to_string(),
        "name": token.name.as_str(),
        "createdAt": token.created_at.to_string(),
        "expiresAt": token.expires_at.map(|end| end.to_string()),
        "lastUsedAt": token.last_used_at.map(|used| used.to_string()),
        "paths": token.scope.paths,
        "methods": token.scope.methods,
        "networks": token.scope.networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// An event as the person it is about sees it.
pub(super) fn event(view: &EventView) -> Value {
    let event = &view.event;
    json!({
        "id": event.id.to_string(),
        "action": event.action.as_str(),
        "outcome": match event.outcome { Outcome::Success => "success", Outcome::Failure => "failure" },
        "createdAt": event.at.to_string(),
        "actor": event.actor,
        "ip": view.ip,
        "userAgent": view.user_agent,
        "requestId": event.request_id,
        "details": event.details,
    })
}
