//! Accounts, the index of their addresses, and the addresses of those that were deleted.

use sha2::{Digest as _, Sha256};

use super::{Changes, Error, Inner, UserQuery, Writer, bytes, entries_after, exists, keys, load, record, sessions, tokens};
use crate::clock::Timestamp;
use crate::model::{Email, SessionId, User, UserId};

pub(super) fn insert(writer: &Writer<'_>, user: &User, allow_retired: bool) -> Result<(), Error> {
    let trees = &writer.trees;
    let (id, email) = (user.id.as_bytes(), user.email.as_str().as_bytes());
    let encoded = record::encode(user)?;
    if exists(&trees.users, id)? || exists(&trees.users_by_email, email)? {
        return Err(Error::Conflict);
    }
    if !allow_retired && exists(&trees.retired_emails, &retired(&user.email))? {
        return Err(Error::Retired);
    }
    keys::refuse_old_key(writer, &user.data_key.0)?;
    let mut changes = Changes::new();
    changes.put(&trees.users, id, encoded);
    changes.put(&trees.users_by_email, email, id);
    writer.commit(&changes)
}

pub(super) fn replace(writer: &Writer<'_>, user: User) -> Result<User, Error> {
    let mut changes = Changes::new();
    let user = put(writer, &mut changes, user)?;
    writer.commit(&changes)?;
    Ok(user)
}

pub(super) fn replace_and_end_sessions(writer: &Writer<'_>, user: User) -> Result<(User, Vec<SessionId>), Error> {
    let mut changes = Changes::new();
    let user = put(writer, &mut changes, user)?;
    let ended = sessions::ids_of(writer, user.id)?;
    for session in &ended {
        sessions::remove(writer, &mut changes, user.id, *session);
    }
    writer.commit(&changes)?;
    Ok((user, ended))
}

/// Adds what replaces the stored account with `user` to `changes`, and returns it as it will be.
fn put<'a>(writer: &'a Writer<'_>, changes: &mut Changes<'a>, mut user: User) -> Result<User, Error> {
    let trees = &writer.trees;
    let stored = get(writer, user.id)?.filter(|stored| stored.revision == user.revision).ok_or(Error::Stale)?;
    user.revision = user.revision.saturating_add(1);
    changes.put(&trees.users, user.id.as_bytes(), record::encode(&user)?);
    if stored.email != user.email {
        let email = user.email.as_str().as_bytes();
        if exists(&trees.users_by_email, email)? {
            return Err(Error::Conflict);
        }
        changes.remove(&trees.users_by_email, stored.email.as_str().as_bytes());
        changes.put(&trees.users_by_email, email, user.id.as_bytes());
    }
    Ok(user)
}

pub(super) fn delete(writer: &Writer<'_>, id: UserId, now: Timestamp) -> Result<Option<Vec<SessionId>>, Error> {
    let trees = &writer.trees;
    let Some(user) = get(writer, id)? else { return Ok(None) };
    let mut changes = Changes::new();
    changes.remove(&trees.users, id.as_bytes());
    changes.remove(&trees.users_by_email, user.email.as_str().as_bytes());
    changes.put(&trees.retired_emails, &retired(&user.email), &now.as_millis().to_be_bytes());
    changes.remove(&trees.totp_steps, id.as_bytes());
    for token in tokens::ids_of(writer, id)? {
        tokens::remove(writer, &mut changes, id, token);
    }
    let ended = sessions::ids_of(writer, id)?;
    for session in &ended {
        sessions::remove(writer, &mut changes, id, *session);
    }
    writer.commit(&changes)?;
    Ok(Some(ended))
}

pub(super) fn get(inner: &Inner, id: UserId) -> Result<Option<User>, Error> {
    load(&inner.trees.users, id.as_bytes())
}

pub(super) fn by_email(inner: &Inner, email: &Email) -> Result<Option<User>, Error> {
    let Some(id) = bytes(&inner.trees.users_by_email, email.as_str().as_bytes())? else { return Ok(None) };
    let user: Option<User> = load(&inner.trees.users, &id)?;
    // Between the two reads the account may have been deleted or given another address: then nobody had this one.
    Ok(user.filter(|user| user.email == *email))
}

/// Identifiers sort by the time of making, so the tree is in the order that is asked for.
pub(super) fn list(inner: &Inner, query: &UserQuery) -> Result<Vec<User>, Error> {
    let search = query.search.as_deref().map(str::to_lowercase);
    let wanted = |user: &User| {
        let name = user.display_name.as_ref().map_or_else(String::new, |name| name.as_str().to_lowercase());
        search.as_deref().is_none_or(|text| user.email.as_str().contains(text) || name.contains(text))
            && query.group.as_ref().is_none_or(|group| user.groups.contains(group))
    };
    let after = query.after.map(|id| id.as_bytes().into());
    entries_after(&inner.trees.users, after.as_ref())
        .map(|entry| entry.and_then(|(_, value)| record::decode::<User>(&value)))
        .filter(|user| user.as_ref().map_or(true, wanted))
        .take(query.limit)
        .collect()
}

/// What is remembered of a deleted account's address: enough to know it again, not the address.
fn retired(email: &Email) -> [u8; 32] {
    Sha256::digest(email.as_str()).into()
}
