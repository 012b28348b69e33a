//! Asking the store about a token that this process has not seen, or whose session may have changed elsewhere: only where
//! others share the store. One look for all who wait for it, a bounded number at a time, and never for what is not signed
//! by us.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::audit::ClientRecord;
use super::live::{Boarding, Landing, Looked, Question, Seen};
use super::recognise::Recognised;
use super::{Auth, Error, keys};
use crate::clock::Timestamp;
use crate::crypto::seal::Purpose;
use crate::crypto::token::{Invalid, PendingClaims};
use crate::model::{Session, User};

/// How many looks are under way at a time. Beyond it they queue; a sign-in still finds a connection.
pub(super) const MAX_LOOKS: usize = 8;

/// How many of them for API tokens, which anybody can make up.
pub(super) const MAX_TOKEN_LOOKS: usize = 3;

/// How long a request waits for a look before it is told to come back.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a look that was overtaken by a change is made again, and how often a request asks.
const ROUNDS: usize = 4;

/// How often the signing keys are read again for tokens that name another.
const KEYS_EVERY: Duration = Duration::from_secs(1);

/// When the signing keys were last read again, and whether that worked.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeysRead {
    at: Instant,
    answered: bool,
}

impl Auth {
    /// What a token is worth now, for a request from `client`. For a token that is known and current it waits for nobody.
    pub async fn recognise(self: &Arc<Self>, token: &str, client: IpAddr, now: Timestamp) -> Recognised {
        match self.recognise_known(token, client, now) {
            Ok(recognised) => recognised,
            // In a box: it is rare and large, and every connection keeps room for a whole request.
            Err(question) => Box::pin(self.ask_for(question, token, client, now)).await,
        }
    }

    async fn ask_for(self: &Arc<Self>, mut question: Question, token: &str, client: IpAddr, now: Timestamp) -> Recognised {
        for _ in 0..ROUNDS {
            match self.look_unless(question, now, || self.is_known(token, client, now)).await {
                Looked::Known => {}
                Looked::Gone => return Recognised::No,
                Looked::Away => return Recognised::StoreAway,
            }
            match self.recognise_known(token, client, now) {
                Ok(recognised) => return recognised,
                // A generation that its session has not reached: the store was put back to an earlier state.
                Err(next) if next == question && self.live.is_answered(next) => return Recognised::No,
                Err(next) => question = next,
            }
        }
        // A key that is not in the store; or so many changes that no look could keep up.
        if question == Question::SigningKeys { Recognised::No } else { Recognised::StoreAway }
    }

    /// Whether the table has an answer, whichever.
    fn is_known(self: &Arc<Self>, token: &str, client: IpAddr, now: Timestamp) -> bool {
        match self.find(token, now) {
            Ok(None) => true,
            Ok(Some(entry)) => !matches!(self.live.look(&entry, client, now), Seen::Ask(_)),
            Err(_) => false,
        }
    }

    /// Has a question answered by the store, together with everybody else who asks it.
    pub(super) async fn look(self: &Arc<Self>, question: Question, now: Timestamp) -> Looked {
        self.look_unless(question, now, || false).await
    }

    /// As [`Auth::look`], unless the table `knows` by the time that nobody else is found asking.
    async fn look_unless(self: &Arc<Self>, question: Question, now: Timestamp, knows: impl FnOnce() -> bool) -> Looked {
        if self.live.is_store_away() {
            return Looked::Away;
        }
        if question == Question::SigningKeys {
            return if self.read_keys_again(Instant::now()).await { Looked::Known } else { Looked::Away };
        }
        if self.live.is_absent(question) {
            return Looked::Gone;
        }
        let mut answer = match self.live.board(question) {
            Boarding::Full => return Looked::Away,
            Boarding::Wait(answer) => answer,
            // Between the question and here, the answer to somebody else's may have come.
            Boarding::Ask(_) if knows() => {
                self.live.give_up(question, Looked::Known);
                return Looked::Known;
            }
            Boarding::Ask(answer) => {
                let auth = Arc::clone(self);
                // A task of its own: whoever asked first may go away, and others wait as well.
                self.tasks.spawn(async move {
                    let flight = Flight { auth: &auth, question };
                    let _too_late = tokio::time::timeout(PATIENCE, flight.fly(now)).await;
                });
                answer
            }
        };
        match answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.unwrap_or(Looked::Away),
            Err(_) => Looked::Away,
        }
    }

    async fn read(&self, question: Question) -> Result<Landing, Error> {
        Ok(match question {
            Question::Session(id) => Landing::Session(self.store.session_with_user(id).await?.map(|(session, user)| {
                let bound = self.live.binds().then(|| self.bound_address(&session, &user)).flatten();
                Box::new((session, user, bound))
            })),
            Question::ApiToken(digest) => Landing::ApiToken(self.store.api_token_with_user(&digest).await?.map(Box::new)),
            Question::User(id) => Landing::User(self.store.user(id).await?.map(Box::new)),
            Question::SigningKeys => return Err(Error::Internal("signing keys are read by another way".to_owned())),
        })
    }

    /// The address that a session was begun from; `None` when the record can't be read.
    fn bound_address(&self, session: &Session, user: &User) -> Option<IpAddr> {
        let opened = self.data_key(user).ok()?.open(Purpose::SessionClient, session.id.as_bytes(), &session.client).ok()?;
        let client: ClientRecord = serde_json::from_slice(&opened).ok()?;
        client.ip.parse().ok()
    }

    /// What a pending login's token says. A key that is not known may be a new one of another process.
    pub(super) async fn verify_pending(&self, token: &str, now: Timestamp) -> Result<PendingClaims, Error> {
        let asked = Instant::now();
        let verify = || self.keyring.load().verify_pending(token, now);
        let claims = match verify() {
            Err(Invalid::UnknownKey) if self.live.is_shared() && self.is_ours(token) => {
                if !self.read_keys_again(asked).await {
                    return Err(Error::Unavailable(crate::store::Error::Unavailable("the signing keys can't be read".to_owned())));
                }
                verify()
            }
            verified => verified,
        };
        claims.map_err(|_| Error::PendingExpired)
    }

    /// Reads the signing keys, which this process has changed itself.
    pub(super) async fn read_keys_now(&self) -> Result<(), Error> {
        // Whoever reads them at this moment might put back what was before.
        let mut last = self.keys_read.lock().await;
        let at = Instant::now();
        self.keyring.store(Arc::new(keys::read(&*self.store, &self.storage_key, &self.settings()).await?));
        *last = Some(KeysRead { at, answered: true });
        Ok(())
    }

    /// Reads the signing keys again, unless somebody did so since `asked`, at most once a second. False: the store does
    /// not answer.
    async fn read_keys_again(&self, asked: Instant) -> bool {
        let mut last = self.keys_read.lock().await;
        if let Some(read) = *last {
            if read.at >= asked {
                return read.answered;
            }
            tokio::time::sleep_until(read.at + KEYS_EVERY).await;
        }
        let at = Instant::now();
        let read = tokio::time::timeout(PATIENCE, keys::read(&*self.store, &self.storage_key, &self.settings())).await;
        let answered = match read {
            Ok(Ok(keyring)) => {
                self.keyring.store(Arc::new(keyring));
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the signing keys could not be read again: those before go on");
                false
            }
            Err(_) => false,
        };
        *last = Some(KeysRead { at, answered });
        answered
    }
}

/// A look at the store that is under way. Dropped without an answer, those who wait are told that there is none.
struct Flight<'a> {
    auth: &'a Auth,
    question: Question,
}

impl Flight<'_> {
    async fn fly(&self, now: Timestamp) {
        let Self { auth, question } = *self;
        let token_places = matches!(question, Question::ApiToken(_)).then_some(&auth.token_looks);
        let _token_place = match token_places {
            Some(places) => places.acquire().await.ok(),
            None => None,
        };
        let Ok(_place) = auth.looks.acquire().await else { return };
        for _ in 0..ROUNDS {
            let epoch = auth.live.epoch();
            match auth.read(question).await {
                Ok(landing) => {
                    if auth.live.land(question, landing, epoch, now).is_some() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, ?question, "the store did not answer");
                    return;
                }
            }
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.auth.live.give_up(self.question, Looked::Away);
    }
}
