//! What this process does not know and must ask the store, which others write to as well: one look at a time for a
//! question, however many wait for it, and a short memory of what is not there.
//!
//! A look may be overtaken: the store answers, the record changes, the news of that arrives, and only then is the answer
//! put into the table. So every look hears the news that come while it is under way, and is made again when one concerns
//! what it found.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::table::{Live, lock};
use crate::clock::Timestamp;
use crate::model::{ApiToken, Digest, Session, SessionId, User, UserId};
use crate::store::News;

/// How long something is taken as not there without asking again. What was ended never comes back, so this is only as
/// short as it is for a store that answers from a copy which is a little behind.
const ABSENT_FOR: Duration = Duration::from_secs(5);

/// How many absent things are remembered.
const MAX_ABSENT: usize = 16_384;

/// How many questions may be open. Whoever comes then is told to come back.
const MAX_FLIGHTS: usize = 1024;

/// How many of them about API tokens: anybody can make up one that is well formed, and must not take the places of those
/// whose token we signed.
const MAX_TOKEN_FLIGHTS: usize = 256;

/// How many news a look listens to before it takes all of them as concerning it.
const MAX_HEARD: usize = 64;

/// What only the store can answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Question {
    /// What a session is now, and its account.
    Session(SessionId),
    /// Whose API token has this digest.
    ApiToken(Digest),
    /// What an account is now.
    User(UserId),
    /// Which signing keys there are.
    SigningKeys,
}

/// What came of asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::auth) enum Looked {
    /// It is in the table, as it is in the store.
    Known,
    /// There is no such thing any more.
    Gone,
    /// The store does not answer, or too many ask.
    Away,
}

/// How somebody with a question is served.
#[derive(Debug)]
pub(in crate::auth) enum Boarding {
    /// It is on its way: the answer comes here.
    Wait(watch::Receiver<Option<Looked>>),
    /// Nobody has asked yet: do so, and the answer comes here.
    Ask(watch::Receiver<Option<Looked>>),
    /// Too many are on their way.
    Full,
}

/// What the store said.
#[derive(Debug)]
pub(in crate::auth) enum Landing {
    /// To [`Question::Session`], with the address that the session is tied to.
    Session(Option<Box<(Session, User, Option<IpAddr>)>>),
    /// To [`Question::ApiToken`].
    ApiToken(Option<Box<(ApiToken, User)>>),
    /// To [`Question::User`].
    User(Option<Box<User>>),
}

#[derive(Debug)]
struct Flight {
    heard: Vec<News>,
    answer: watch::Sender<Option<Looked>>,
}

impl Flight {
    /// Whether something that was heard meanwhile is about what was found.
    fn is_overtaken(&self, question: Question, landing: &Landing) -> bool {
        let owner = match landing {
            Landing::Session(found) => found.as_ref().map(|found| found.1.id),
            Landing::ApiToken(found) => found.as_ref().map(|found| found.1.id),
            Landing::User(found) => found.as_ref().map(|user| user.id),
        };
        self.heard.len() >= MAX_HEARD
            || self.heard.iter().any(|news| match *news {
                News::SessionEnded(id) | News::SessionChanged(id) => question == Question::Session(id),
                News::User(id) => owner == Some(id) || question == Question::User(id),
                News::ApiTokenEnded(_) => matches!(question, Question::ApiToken(_)),
                News::SigningKeys => false,
                News::Everything => true,
            })
    }
}

/// The open questions, and what is known not to be there.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    flights: Mutex<HashMap<Question, Flight>>,
    absent: Mutex<HashMap<Question, Instant>>,
}

impl Unknown {
    /// Lets every look that is under way know what has changed. Before the table is changed itself: a look that lands
    /// before is corrected there, one that lands later is made again.
    pub(super) fn tell(&self, news: News) {
        for flight in lock(&self.flights).values_mut() {
            if flight.heard.len() < MAX_HEARD {
                flight.heard.push(news);
            }
        }
    }

    pub(super) fn remember_absent(&self, question: Question) {
        let now = Instant::now();
        let mut absent = lock(&self.absent);
        if absent.len() >= MAX_ABSENT {
            absent.retain(|_, until| *until > now);
            if absent.len() >= MAX_ABSENT {
                absent.clear();
            }
        }
        absent.insert(question, now + ABSENT_FOR);
    }

    pub(super) fn is_absent(&self, question: Question) -> bool {
        lock(&self.absent).get(&question).is_some_and(|until| *until > Instant::now())
    }
}

impl Live {
    /// Whether this was not there a moment ago.
    pub(in crate::auth) fn is_absent(&self, question: Question) -> bool {
        self.unknown.is_absent(question)
    }

    /// Takes a place among those who wait for an answer.
    pub(in crate::auth) fn board(&self, question: Question) -> Boarding {
        let mut flights = lock(&self.unknown.flights);
        if let Some(flight) = flights.get(&question) {
            return Boarding::Wait(flight.answer.subscribe());
        }
        let is_token = |question: &Question| matches!(question, Question::ApiToken(_));
        let tokens = || flights.keys().filter(|other| is_token(other)).count();
        if flights.len() >= MAX_FLIGHTS || (is_token(&question) && flights.len() >= MAX_TOKEN_FLIGHTS && tokens() >= MAX_TOKEN_FLIGHTS) {
            return Boarding::Full;
        }
        let (answer, waiting) = watch::channel(None);
        flights.insert(question, Flight { heard: Vec::new(), answer });
        Boarding::Ask(waiting)
    }

    /// Takes over what the store said, which was asked in `epoch`, and tells those who wait. `None`: it was overtaken by
    /// a change, so that it must be asked again.
    pub(in crate::auth) fn land(&self, question: Question, landing: Landing, epoch: u32, now: Timestamp) -> Option<Looked> {
        let mut flights = lock(&self.unknown.flights);
        if let Some(flight) = flights.get_mut(&question)
            && flight.is_overtaken(question, &landing)
        {
            flight.heard.clear();
            return None;
        }
        // With the lock held: who changes the table takes it first.
        let looked = self.take_over(question, landing, epoch, now);
        if looked == Looked::Gone {
            self.unknown.remember_absent(question);
        }
        if let Some(flight) = flights.remove(&question) {
            flight.answer.send_replace(Some(looked));
        }
        Some(looked)
    }

    /// Gives a question up that has not been answered; `instead` is what those who wait are told.
    pub(in crate::auth) fn give_up(&self, question: Question, instead: Looked) {
        if let Some(flight) = lock(&self.unknown.flights).remove(&question) {
            flight.answer.send_replace(Some(instead));
        }
    }

    fn take_over(&self, question: Question, landing: Landing, epoch: u32, now: Timestamp) -> Looked {
        match (question, landing) {
            (Question::Session(id), Landing::Session(found)) => match found {
                Some(found) if found.0.expires_at > now && !self.is_ending(id) => {
                    let (session, user, bound) = *found;
                    let seen = self.take_over_session(&user, &session, bound, epoch);
                    if self.is_idle(seen, now) { Looked::Gone } else { Looked::Known }
                }
                _ => {
                    self.end_here(id);
                    Looked::Gone
                }
            },
            (Question::ApiToken(digest), Landing::ApiToken(found)) => match found {
                Some(found) => {
                    let (token, user) = *found;
                    if self.take_over_api_token(&user, token, epoch) { Looked::Known } else { Looked::Gone }
                }
                None => {
                    self.end_api_token_here(&digest);
                    Looked::Gone
                }
            },
            (Question::User(id), Landing::User(found)) => {
                if let Some(user) = found {
                    self.take_over_user(&user, epoch);
                    Looked::Known
                } else {
                    self.remove_user_here(id);
                    Looked::Gone
                }
            }
            // An answer to another question is none.
            (Question::Session(_) | Question::ApiToken(_) | Question::User(_) | Question::SigningKeys, _) => Looked::Away,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Settings;
    use crate::config::Config;

    fn live() -> Live {
        let config = Config::default();
        let settings = Settings {
            accounts: config.accounts,
            issuer: "https://app.example.com".to_owned(),
            tokens: config.tokens,
            sessions: config.sessions,
            two_factor: config.two_factor,
            limits: config.limits,
            audit: config.audit,
        };
        Live::new(&settings, true)
    }

    fn nothing(live: &Live, question: Question) -> Option<Looked> {
        live.land(question, Landing::Session(None), live.epoch(), Timestamp::from_secs(1))
    }

    #[test]
    fn one_asks_and_all_are_answered() {
        let (live, question) = (live(), Question::Session(SessionId::new()));
        let Boarding::Ask(first) = live.board(question) else { panic!("nobody has asked") };
        let Boarding::Wait(second) = live.board(question) else { panic!("somebody asks") };
        assert!(!live.is_absent(question));
        assert_eq!(nothing(&live, question), Some(Looked::Gone));
        assert_eq!((*first.borrow(), *second.borrow()), (Some(Looked::Gone), Some(Looked::Gone)));
        assert!(live.is_absent(question), "and nobody asks again for a moment");
        assert!(matches!(live.board(question), Boarding::Ask(_)));
        live.give_up(question, Looked::Away);
    }

    #[test]
    fn who_is_given_up_is_told_so() {
        let (live, question) = (live(), Question::Session(SessionId::new()));
        let Boarding::Ask(waiting) = live.board(question) else { panic!("nobody has asked") };
        live.give_up(question, Looked::Away);
        assert_eq!(*waiting.borrow(), Some(Looked::Away));
        assert!(!live.is_absent(question));
    }

    #[test]
    fn questions_are_bounded() {
        let live = live();
        for _ in 0..MAX_FLIGHTS {
            assert!(matches!(live.board(Question::Session(SessionId::new())), Boarding::Ask(_)));
        }
        assert!(matches!(live.board(Question::Session(SessionId::new())), Boarding::Full));
    }

    #[test]
    fn made_up_api_tokens_leave_room_for_what_we_signed() {
        let live = live();
        let token = |number: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            Question::ApiToken(Digest(digest))
        };
        for number in 0..MAX_TOKEN_FLIGHTS {
            assert!(matches!(live.board(token(number)), Boarding::Ask(_)));
        }
        assert!(matches!(live.board(token(MAX_TOKEN_FLIGHTS)), Boarding::Full));
        for _ in MAX_TOKEN_FLIGHTS..MAX_FLIGHTS {
            assert!(matches!(live.board(Question::Session(SessionId::new())), Boarding::Ask(_)));
        }
        live.give_up(token(0), Looked::Away);
        assert!(matches!(live.board(token(MAX_TOKEN_FLIGHTS)), Boarding::Ask(_)));
    }

    #[test]
    fn what_is_absent_is_bounded() {
        let live = live();
        for _ in 0..=MAX_ABSENT {
            live.unknown.remember_absent(Question::Session(SessionId::new()));
        }
        assert!(lock(&live.unknown.absent).len() <= MAX_ABSENT);
    }

    #[test]
    fn news_about_what_was_found_overtake_a_look() {
        let (id, other) = (SessionId::new(), SessionId::new());
        let question = Question::Session(id);
        for (news, overtaken) in [
            (News::SessionEnded(id), true),
            (News::SessionChanged(id), true),
            (News::Everything, true),
            (News::SessionEnded(other), false),
            (News::User(UserId::new()), false),
            (News::SigningKeys, false),
        ] {
            let live = live();
            let Boarding::Ask(_waiting) = live.board(question) else { panic!("nobody has asked") };
            live.hear(&[news]);
            assert_eq!(nothing(&live, question).is_none(), overtaken, "{news:?}");
            if overtaken {
                assert_eq!(nothing(&live, question), Some(Looked::Gone), "the next look counts");
            }
        }
    }

    #[test]
    fn so_many_news_count_as_about_anything() {
        let (live, question) = (live(), Question::Session(SessionId::new()));
        let Boarding::Ask(_waiting) = live.board(question) else { panic!("nobody has asked") };
        for _ in 0..MAX_HEARD {
            live.hear(&[News::User(UserId::new())]);
        }
        assert_eq!(nothing(&live, question), None);
    }
}
