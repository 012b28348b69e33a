//! Personal API tokens and the index of whose they are; they exist only beside their user, as sessions do.

use super::{Changes, Error, Inner, Writer, entries_after, exists, indexed, load, pair, record, users};
use crate::clock::Timestamp;
use crate::model::{ApiToken, ApiTokenId, Digest, User, UserId};

pub(super) fn insert(writer: &Writer<'_>, token: &ApiToken) -> Result<(), Error> {
    let trees = &writer.trees;
    let encoded = record::encode(token)?;
    if !exists(&trees.users, token.user.as_bytes())? {
        return Err(Error::Stale);
    }
    if exists(&trees.api_tokens, token.id.as_bytes())? {
        return Err(Error::Conflict);
    }
    let mut changes = Changes::new();
    changes.put(&trees.api_tokens, token.id.as_bytes(), encoded);
    changes.put(&trees.api_tokens_by_user, &pair(token.user.as_bytes(), token.id.as_bytes()), &[]);
    writer.commit(&changes)
}

pub(super) fn get(inner: &Inner, id: ApiTokenId) -> Result<Option<ApiToken>, Error> {
    load(&inner.trees.api_tokens, id.as_bytes())
}

/// Walks through all of them: whoever has the folder for themselves keeps them all in memory and never asks this.
pub(super) fn with_user(inner: &Inner, digest: &Digest) -> Result<Option<(ApiToken, User)>, Error> {
    for entry in entries_after(&inner.trees.api_tokens, None) {
        let token: ApiToken = record::decode(&entry?.1)?;
        if token.digest == *digest {
            return Ok(users::get(inner, token.user)?.map(|user| (token, user)));
        }
    }
    Ok(None)
}

/// Oldest first, since identifiers sort by the time of making.
pub(super) fn of_user(inner: &Inner, user: UserId) -> Result<Vec<ApiToken>, Error> {
    let mut tokens = Vec::new();
    for id in ids_of(inner, user)? {
        // One that ended since the index was read is passed over.
        tokens.extend(get(inner, id)?);
    }
    Ok(tokens)
}

pub(super) fn ids_of(inner: &Inner, user: UserId) -> Result<Vec<ApiTokenId>, Error> {
    indexed(&inner.trees.api_tokens_by_user, user.as_bytes()).map(|id| id.map(ApiTokenId::from_bytes)).collect()
}

pub(super) fn delete(writer: &Writer<'_>, user: UserId, id: ApiTokenId) -> Result<bool, Error> {
    if get(writer, id)?.is_none_or(|token| token.user != user) {
        return Ok(false);
    }
    let mut changes = Changes::new();
    remove(writer, &mut changes, user, id);
    writer.commit(&changes)?;
    Ok(true)
}

pub(super) fn touch(writer: &Writer<'_>, used: &[(ApiTokenId, Timestamp)]) -> Result<(), Error> {
    for (id, at) in used {
        let Some(mut token) = get(writer, *id)? else { continue };
        token.last_used_at = token.last_used_at.max(Some(*at));
        let mut changes = Changes::new();
        changes.put(&writer.trees.api_tokens, id.as_bytes(), record::encode(&token)?);
        writer.commit(&changes)?;
    }
    Ok(())
}

/// Adds the removal of a token to `changes`.
pub(super) fn remove<'a>(writer: &'a Writer<'_>, changes: &mut Changes<'a>, user: UserId, id: ApiTokenId) {
    changes.remove(&writer.trees.api_tokens, id.as_bytes());
    changes.remove(&writer.trees.api_tokens_by_user, &pair(user.as_bytes(), id.as_bytes()));
}
