//! Sessions and the index of whose they are. A session exists only beside its user: both are looked at under the
//! writers' lock and removed in one transaction.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use super::{Changes, Error, Inner, SessionSelector, Writer, exists, indexed, load, pair, record, users};
use crate::clock::Timestamp;
use crate::model::{Amr, Fitness, Generation, KnownToken, Rotation, Session, SessionId, SessionTouch, User, UserId};
use crate::store::rules;

/// Sessions whose last use is written in one commit.
const TOUCHES: usize = 32;

pub(super) fn insert(writer: &Writer<'_>, session: &Session, max_per_user: Option<u32>) -> Result<Vec<SessionId>, Error> {
    let trees = &writer.trees;
    let encoded = record::encode(session)?;
    if !exists(&trees.users, session.user.as_bytes())? {
        return Err(Error::Stale);
    }
    if exists(&trees.sessions, session.id.as_bytes())? {
        return Err(Error::Conflict);
    }
    let mut changes = Changes::new();
    changes.put(&trees.sessions, session.id.as_bytes(), encoded);
    changes.put(&trees.sessions_by_user, &pair(session.user.as_bytes(), session.id.as_bytes()), &[]);
    let mut evicted = Vec::new();
    if let Some(max) = max_per_user {
        // The new one always stays.
        evicted = ids_of(writer, session.user)?;
        let others = usize::try_from(max).unwrap_or(usize::MAX).saturating_sub(1);
        evicted.truncate(evicted.len().saturating_sub(others));
        for id in &evicted {
            remove(writer, &mut changes, session.user, *id);
        }
    }
    writer.commit(&changes)?;
    Ok(evicted)
}

pub(super) fn get(inner: &Inner, id: SessionId) -> Result<Option<Session>, Error> {
    load(&inner.trees.sessions, id.as_bytes())
}

/// A session ends in one transaction with its account, so one that is read without it ended meanwhile.
pub(super) fn with_user(inner: &Inner, id: SessionId) -> Result<Option<(Session, User)>, Error> {
    let Some(session) = get(inner, id)? else { return Ok(None) };
    Ok(users::get(inner, session.user)?.map(|user| (session, user)))
}

/// Oldest first, since identifiers sort by the time of making.
pub(super) fn of_user(inner: &Inner, user: UserId) -> Result<Vec<Session>, Error> {
    let mut sessions = Vec::new();
    for id in ids_of(inner, user)? {
        // One that ended since the index was read is passed over.
        sessions.extend(get(inner, id)?);
    }
    Ok(sessions)
}

pub(super) fn ids_of(inner: &Inner, user: UserId) -> Result<Vec<SessionId>, Error> {
    indexed(&inner.trees.sessions_by_user, user.as_bytes()).map(|id| id.map(SessionId::from_bytes)).collect()
}

pub(super) fn rotate(
    writer: &Writer<'_>,
    id: SessionId,
    presented: Generation,
    next: KnownToken,
    grace: Duration,
    now: Timestamp,
) -> Result<Rotation, Error> {
    let Some(session) = get(writer, id)? else { return Ok(Rotation::Gone) };
    let rotation = rules::rotated(session, presented, next, grace, now);
    if let Rotation::Rotated(session) | Rotation::Grace(session) = &rotation {
        let mut changes = Changes::new();
        changes.put(&writer.trees.sessions, id.as_bytes(), record::encode(session)?);
        writer.commit(&changes)?;
    }
    Ok(rotation)
}

pub(super) fn set_standing(writer: &Writer<'_>, id: SessionId, amr: Amr, fitness: Fitness) -> Result<bool, Error> {
    let Some(session) = get(writer, id)? else { return Ok(false) };
    let mut changes = Changes::new();
    changes.put(&writer.trees.sessions, id.as_bytes(), record::encode(&Session { amr, fitness, ..session })?);
    writer.commit(&changes)?;
    Ok(true)
}

/// Some at a time in one commit, which costs an eighth of as many commits. Neighbours, best of all: what is stored of them
/// lies on the same pages.
pub(super) fn touch(writer: &Writer<'_>, touches: &[SessionTouch]) -> Result<(), Error> {
    for some in touches.chunks(TOUCHES) {
        let mut touched = BTreeMap::new();
        for touch in some {
            let session = match touched.entry(touch.id) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => match get(writer, touch.id)? {
                    Some(session) => place.insert(session),
                    None => continue,
                },
            };
            rules::touch(session, touch);
        }
        let mut changes = Changes::new();
        for (id, session) in &touched {
            changes.put(&writer.trees.sessions, id.as_bytes(), record::encode(session)?);
        }
        writer.commit(&changes)?;
    }
    Ok(())
}

pub(super) fn delete(writer: &Writer<'_>, which: SessionSelector) -> Result<Vec<SessionId>, Error> {
    let ended = match which {
        SessionSelector::One(id) => get(writer, id)?.map(|session| (session.user, id)).into_iter().collect(),
        SessionSelector::OfUser(user) => ids_of(writer, user)?.into_iter().map(|id| (user, id)).collect::<Vec<_>>(),
        SessionSelector::OfUserExcept(user, kept) => {
            ids_of(writer, user)?.into_iter().filter(|id| *id != kept).map(|id| (user, id)).collect()
        }
    };
    let mut changes = Changes::new();
    for (user, id) in &ended {
        remove(writer, &mut changes, *user, *id);
    }
    writer.commit(&changes)?;
    Ok(ended.into_iter().map(|(_, id)| id).collect())
}

/// Adds the removal of a session to `changes`.
pub(super) fn remove<'a>(writer: &'a Writer<'_>, changes: &mut Changes<'a>, user: UserId, id: SessionId) {
    changes.remove(&writer.trees.sessions, id.as_bytes());
    changes.remove(&writer.trees.sessions_by_user, &pair(user.as_bytes(), id.as_bytes()));
}
