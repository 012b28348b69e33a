//! What of the table may be out of date, because others share the store: marked here, and read again before it counts or,
//! where something open depends on it, at once. Also here: whether the store is there at all, and what leaves the table
//! because nobody uses it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::table::{Live, lock};
use super::unknown::Question;
use super::{LiveApiToken, LiveSession, LiveUser};
use crate::clock::Timestamp;
use crate::model::{SessionId, UserId};
use crate::store::News;

/// For how long the store may have nothing to say before it counts as away: what was ended elsewhere is refused within
/// that time, or the table is no longer believed.
const SILENCE: Duration = Duration::from_secs(2);

/// How long what nobody uses stays in the table.
const UNUSED_FOR: Duration = Duration::from_secs(3600);

/// After a gap: how long until what is open is looked at. Whoever was let in just before is found then, and not all
/// processes ask at once.
const SWEEP_AFTER: Duration = Duration::from_millis(100);

/// How many are gone through at a time after a gap.
const SWEEP_BATCH: usize = 1024;

/// Whether the store is there, from two sides.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// It did not answer when it was asked whether it does.
    silent: bool,
    /// When it last told what others changed, where they can.
    heard: Option<Instant>,
}

/// What has to be read again without anybody asking for it.
#[derive(Debug, Default)]
pub(super) struct Stale {
    questions: HashSet<Question>,
    /// From then on: everything that something open depends on.
    sweep: Option<Instant>,
}

impl Live {
    /// The epoch that counts now; see [`super::Checked`].
    pub(in crate::auth) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether what is known of a session is what the store has.
    pub(super) fn is_current(&self, session: &LiveSession) -> bool {
        let epoch = self.epoch();
        session.checked.is_of(epoch) && session.owner.checked.is_of(epoch)
    }

    pub(super) fn is_current_token(&self, token: &LiveApiToken) -> bool {
        let epoch = self.epoch();
        token.checked.is_of(epoch) && token.owner.checked.is_of(epoch)
    }

    /// The same of an account.
    pub(in crate::auth) fn is_current_user(&self, user: &LiveUser) -> bool {
        user.checked.is_of(self.epoch())
    }

    /// Whether the store has nothing more to say about this than the table.
    pub(in crate::auth) fn is_answered(&self, question: Question) -> bool {
        match question {
            Question::Session(id) => self.session(id).is_some_and(|session| self.is_current(&session)),
            Question::ApiToken(_) | Question::User(_) | Question::SigningKeys => false,
        }
    }

    /// Takes over what others changed. What has ended has ended when this returns; what has changed is read again before
    /// it counts.
    pub(in crate::auth) fn hear(&self, news: &[News]) {
        for told in news {
            match *told {
                News::SessionEnded(id) => self.end(&[id]),
                News::ApiTokenEnded(id) => self.end_api_tokens(&[id]),
                News::SessionChanged(id) => {
                    self.unknown.tell(*told);
                    if let Some(session) = self.session(id) {
                        session.checked.doubt();
                        if session.held.load(Ordering::SeqCst) > 0 {
                            self.look_again(Question::Session(id));
                        }
                    }
                }
                News::User(id) => {
                    self.unknown.tell(*told);
                    if let Some(user) = self.users.pin().get(&id) {
                        user.checked.doubt();
                        self.look_again(Question::User(id));
                    }
                }
                News::SigningKeys => self.look_again(Question::SigningKeys),
                News::Everything => self.doubt_everything(),
            }
        }
    }

    /// Something may have been missed: a new epoch begins.
    pub(in crate::auth) fn doubt_everything(&self) {
        self.unknown.tell(News::Everything);
        let next = |epoch: u32| Some(epoch.checked_add(1).unwrap_or(1));
        let _before = self.epoch.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        let spread = Duration::from_millis(u64::from(u16::from_be_bytes(crate::crypto::random::bytes()) % 1000));
        lock(&self.stale).sweep = Some(Instant::now() + SWEEP_AFTER + spread);
        self.look_again(Question::SigningKeys);
    }

    /// Puts a question on the list of those that nobody waits for.
    pub(in crate::auth) fn look_again(&self, question: Question) {
        lock(&self.stale).questions.insert(question);
        self.stale_changed.notify_one();
    }

    /// The next of them.
    pub(in crate::auth) fn next_stale(&self) -> Option<Question> {
        let mut stale = lock(&self.stale);
        if stale.questions.is_empty() && stale.sweep.is_some_and(|at| at <= Instant::now()) {
            stale.questions = self.open_and_doubtful();
            if stale.questions.len() < SWEEP_BATCH {
                stale.sweep = None;
            }
        }
        let question = stale.questions.iter().next().copied()?;
        stale.questions.remove(&question);
        // The first of a set is found by walking past all that have left it.
        if stale.questions.len() < stale.questions.capacity() / 8 {
            stale.questions.shrink_to_fit();
        }
        if !stale.questions.is_empty() {
            self.stale_changed.notify_one();
        }
        Some(question)
    }

    /// Resolves when there may be one.
    pub(in crate::auth) async fn stale_changed(&self) {
        self.stale_changed.notified().await;
    }

    /// What was read in an earlier epoch and would not be read again by itself, because a stream that is open asks nobody.
    fn open_and_doubtful(&self) -> HashSet<Question> {
        let mut found = HashSet::new();
        let sessions = self.sessions.pin();
        let held = sessions.values().filter(|session| session.held.load(Ordering::SeqCst) > 0 && !self.is_current(session));
        found.extend(held.map(|session| Question::Session(session.id)).take(SWEEP_BATCH));
        let tokens = self.api_tokens.pin();
        let held = tokens.values().filter(|token| token.held.load(Ordering::SeqCst) > 0 && !self.is_current_token(token));
        found.extend(held.map(|token| Question::ApiToken(token.token.digest)).take(SWEEP_BATCH - found.len().min(SWEEP_BATCH)));
        // Streams that a password opened hold on to the account alone.
        let users = self.users.pin();
        let alone = users.values().filter(|user| !self.is_current_user(user) && lock(&user.sessions).is_empty());
        found.extend(alone.map(|user| Question::User(user.id)).take(SWEEP_BATCH - found.len().min(SWEEP_BATCH)));
        found
    }

    /// Ends a session at once whose record is still to be deleted: until then it does not come back from the store.
    pub(in crate::auth) fn begin_ending(&self, id: SessionId) {
        lock(&self.ending).insert(id);
        self.end(&[id]);
    }

    /// Its record is deleted.
    pub(in crate::auth) fn ending_done(&self, id: SessionId) {
        lock(&self.ending).remove(&id);
    }

    /// Those whose record is still to be deleted.
    pub(in crate::auth) fn ending(&self) -> Vec<SessionId> {
        lock(&self.ending).iter().copied().collect()
    }

    pub(super) fn is_ending(&self, id: SessionId) -> bool {
        lock(&self.ending).contains(&id)
    }

    /// The store told what others changed, or that there is nothing.
    pub(in crate::auth) fn heard(&self) {
        lock(&self.presence).heard = Some(Instant::now());
    }

    /// How long ago that was; `None`: nobody shares the store.
    pub fn unheard_for(&self) -> Option<Duration> {
        let heard = lock(&self.presence).heard;
        heard.filter(|_| self.shared).map(|at| at.elapsed())
    }

    /// The store was asked whether it answers. Returns whether it counts as away from now on, if that is new.
    pub(in crate::auth) fn pinged(&self, answers: bool) -> Option<bool> {
        lock(&self.presence).silent = !answers;
        self.weigh()
    }

    /// Whether the store counts as away from now on, if that is new. While it does, sessions that were seen a moment ago
    /// go on; when it is back, everything is read again before it counts.
    pub(in crate::auth) fn weigh(&self) -> Option<bool> {
        let presence = lock(&self.presence);
        let away = presence.silent || (self.shared && presence.heard.is_none_or(|at| at.elapsed() > SILENCE));
        if away == self.is_store_away() {
            return None;
        }
        if !away && self.shared {
            self.doubt_everything();
        }
        self.store_away.store(away, Ordering::Release);
        Some(away)
    }

    /// Whether the store is known not to answer.
    pub fn is_store_away(&self) -> bool {
        self.store_away.load(Ordering::Acquire)
    }

    /// Drops what nobody has used for a while, so that a table that is filled as it is used does not grow for ever.
    /// Returns how many sessions went. Without others who share the store all stays: nothing else would bring it back.
    pub(in crate::auth) fn drop_unused(&self, now: Timestamp) -> usize {
        if !self.shared {
            return 0;
        }
        let after = self.idle_timeout.map_or(UNUSED_FOR, |idle| idle.min(UNUSED_FOR));
        let unused = |seen: &std::sync::atomic::AtomicI64| now.since(Timestamp::from_millis(seen.load(Ordering::Relaxed))) > after;
        let mut dropped = 0;
        let sessions: Vec<Arc<LiveSession>> = {
            let sessions = self.sessions.pin();
            sessions.values().filter(|session| unused(&session.seen) || now >= session.expires_at).map(Arc::clone).collect()
        };
        for session in sessions {
            let _writer = lock(&self.writer);
            // First said, then looked at, as `Held` does it the other way round: one of the two sees the other.
            session.detached.store(true, Ordering::SeqCst);
            if session.held.load(Ordering::SeqCst) > 0 {
                session.detached.store(false, Ordering::SeqCst);
                continue;
            }
            self.sessions.pin().remove(&session.id);
            self.forget_session(&session);
            dropped += 1;
        }
        let tokens: Vec<Arc<LiveApiToken>> = {
            let tokens = self.api_tokens.pin();
            tokens.values().filter(|token| unused(&token.seen)).map(Arc::clone).collect()
        };
        for token in tokens {
            let _writer = lock(&self.writer);
            token.detached.store(true, Ordering::SeqCst);
            if token.held.load(Ordering::SeqCst) > 0 {
                token.detached.store(false, Ordering::SeqCst);
                continue;
            }
            self.api_tokens.pin().remove(&token.token.id);
            self.forget_api_token(&token);
        }
        self.drop_unused_users();
        dropped
    }

    /// Whom no session, no token and no password that was right holds on to.
    fn drop_unused_users(&self) {
        let _writer = lock(&self.writer);
        let users = self.users.pin();
        let alone =
            |user: &Arc<LiveUser>| Arc::strong_count(user) == 1 && lock(&user.sessions).is_empty() && lock(&user.api_tokens).is_empty();
        let gone: Vec<UserId> = users.values().filter(|user| alone(user)).map(|user| user.id).collect();
        for id in gone {
            users.remove(&id);
        }
    }
}
