//! What happens to a session whichever backend keeps it: once, so that two backends can't come to differ.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::model::{Generation, KnownToken, Rotation, Session, SessionTouch};

/// What becomes of a session whose token is exchanged; see [`super::Store::rotate_session`]. `Rotated` and `Grace` hold
/// what is to be written.
pub(super) fn rotated(mut session: Session, presented: Generation, next: KnownToken, grace: Duration, now: Timestamp) -> Rotation {
    let in_grace = session.successor_seen_at.is_none_or(|seen| now.since(seen) <= grace);
    let rotated = presented == session.generation;
    if rotated {
        session.generation = session.generation.next();
        session.successor_seen_at = None;
    } else if presented.next() != session.generation || !in_grace {
        return Rotation::Reused(session);
    }
    session.remember(KnownToken { generation: session.generation, ..next });
    if rotated { Rotation::Rotated(session) } else { Rotation::Grace(session) }
}

/// Writes into a session what the hot path learned; see [`super::Store::touch_sessions`].
pub(super) fn touch(session: &mut Session, touch: &SessionTouch) {
    session.last_seen_at = session.last_seen_at.max(touch.last_seen_at);
    // When it was first seen does not become later, and is of this generation.
    let seen = touch.successor_seen_at.filter(|(generation, _)| *generation == session.generation).map(|(_, at)| at);
    session.successor_seen_at = match (session.successor_seen_at, seen) {
        (Some(stored), Some(new)) => Some(stored.min(new)),
        (stored, new) => stored.or(new),
    };
    if let Some(token) = touch.renewed
        && token.generation == session.generation
    {
        session.remember(token);
    }
}
