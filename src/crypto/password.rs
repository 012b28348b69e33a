//! Who may have a password hashed, and when; how is in `phc`. What a new one must be is in `password_rules`.
//!
//! A hash takes some 20 ms of a core and 19 MiB, so an attacker who may start them at will takes the machine. Hence
//! the order here: a bounded queue, in which some places are for people who are known; a bounded number of hashes at a
//! time, on threads that stand back; and the same work whether there is an account or not (requirements ENUM-1, NP-6).

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use argon2::Params;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::aside;
use super::pace::Pace;
use super::phc::{hash, verify};
use super::turned_away::TurnedAway;
use crate::config;
use crate::model::Secret;

/// The longest password in bytes; longer ones are refused, never cut, so that no two passwords share a hash.
pub const MAX_BYTES: usize = 1024;

/// Attempts that may wait for their turn; the next one is told to come back.
const MAX_WAITING: usize = 64;

/// With more waiting than this it is a crowd, or somebody who guesses: what it wants is done when nothing else is to be.
const CROWD: usize = 8;

/// Further ones, for people who are known: a flood of strangers does not keep them out.
const MAX_KNOWN_WAITING: usize = 16;

/// What came of comparing a password with its hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is the one. `outdated`: its hash is weaker than the configuration wants; hash it again now that it is known.
    Right {
        /// Whether to hash it again.
        outdated: bool,
    },
    /// It is not, or there is no such account, or its hash can't be used.
    Wrong,
}

/// Too many attempts wait already. Nothing was decided: answer 503 with `Retry-After`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("too many passwords are being checked at the moment")]
pub struct Busy;

/// Whom a place in the queue is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// Anybody.
    Stranger,
    /// Somebody who is signed in, or whose browser the owner of the account has signed in with.
    Known,
}

/// Hashes and compares passwords, a few at a time. Share one in an [`Arc`]: its bounds are the process's.
#[derive(Debug)]
pub struct PasswordHasher {
    params: Params,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    done: Arc<AtomicU64>,
    pace: Arc<Pace>,
    turned_away: TurnedAway,
}

impl PasswordHasher {
    /// A hasher with the configured cost. A cost that argon2 can't have becomes OWASP's minimum (19 MiB, 2 passes).
    pub fn new(settings: &config::Argon2) -> Self {
        let at_once = match settings.max_concurrent {
            0 => default_at_once(std::thread::available_parallelism().map_or(1, NonZero::get)),
            some => some.min(Semaphore::MAX_PERMITS),
        };
        Self {
            params: Params::new(settings.memory_kib, settings.iterations, settings.parallelism, None).unwrap_or_default(),
            turns: Arc::new(Semaphore::new(at_once)),
            waiting: AtomicUsize::new(0),
            done: Arc::new(AtomicU64::new(0)),
            pace: Arc::default(),
            turned_away: TurnedAway::default(),
        }
    }

    /// A place in the queue, to be taken before an attempt costs anything else.
    pub fn place(&self, asker: Asker) -> Result<Place<'_>, Busy> {
        Place::take(&self.waiting, asker).ok_or_else(|| self.turned_away())
    }

    fn turned_away(&self) -> Busy {
        if let Some(number) = self.turned_away.count(Instant::now()) {
            tracing::warn!(number, waiting = self.queue_len(), "too many wait for a password to be checked: others are told to come back");
        }
        Busy
    }

    /// Refuses who could have no place now if they are a stranger, before anybody has found out who they are.
    pub fn expect_place(&self) -> Result<(), Busy> {
        if self.queue_len() < MAX_WAITING { Ok(()) } else { Err(self.turned_away()) }
    }

    /// The PHC string for a new password, which [`super::password_rules::check`] has passed.
    pub async fn hash(&self, password: Secret<String>, asker: Asker) -> Result<Secret<String>, Busy> {
        let params = self.params.clone();
        self.run(self.place(asker)?, move || hash(&params, &password)).await?.ok_or(Busy)
    }

    /// Whether `password` is the one that `phc` was made from. `None`: there is no such account; the answer is
    /// [`Verdict::Wrong`] after the same work.
    pub async fn verify(&self, place: Place<'_>, password: Secret<String>, phc: Option<Secret<String>>) -> Result<Verdict, Busy> {
        let (params, pace) = (self.params.clone(), Arc::clone(&self.pace));
        self.run(place, move || verify(&params, &password, phc.as_ref(), &pace)).await
    }

    /// Hashes done since the start, for a metric.
    pub fn hashes_done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Attempts that have a place and not yet their turn, for a metric.
    pub fn queue_len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Runs `work` on a thread that stands back, when its turn comes.
    async fn run<T: Send + 'static>(&self, place: Place<'_>, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let turn = self.turn(place).await?;
        let done = Arc::clone(&self.done);
        let behind = if self.queue_len() > CROWD { aside::Place::Last } else { aside::Place::Behind };
        let running = aside::run("hash", behind, move || {
            let result = work();
            done.fetch_add(1, Ordering::Relaxed);
            // The turn ends with the work and not with the request: one that is given up goes on burning its core.
            drop(turn);
            result
        });
        running.await.map_err(|error| {
            tracing::error!(%error, "hashing a password failed");
            Busy
        })
    }

    async fn turn(&self, _place: Place<'_>) -> Result<OwnedSemaphorePermit, Busy> {
        Arc::clone(&self.turns).acquire_owned().await.map_err(|_| Busy)
    }
}

/// How many at a time where nobody says: a core less than there are, so that requests which need none find one free, at
/// least one and at most 4. More than the cores would only make each hash slower, and take its memory all the same.
fn default_at_once(cores: usize) -> usize {
    cores.saturating_sub(1).clamp(1, 4)
}

/// A place in the queue; given back when dropped, so also by a request that is given up.
#[derive(Debug)]
#[must_use = "it holds a place"]
pub struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, asker: Asker) -> Option<Self> {
        let most = match asker {
            Asker::Stranger => MAX_WAITING,
            Asker::Known => MAX_WAITING + MAX_KNOWN_WAITING,
        };
        let place = Self(waiting);
        // Taken first and looked at then: the bound holds however many come at once.
        (waiting.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use proptest::prelude::*;

    use super::*;
    use crate::crypto::phc::missing_work;

    const CHEAP: config::Argon2 = config::Argon2 { memory_kib: 64, iterations: 2, parallelism: 1, max_concurrent: 1 };

    fn secret(text: &str) -> Secret<String> {
        Secret::from(text)
    }

    impl PasswordHasher {
        async fn hash_for_anybody(&self, password: Secret<String>) -> Result<Secret<String>, Busy> {
            self.hash(password, Asker::Stranger).await
        }

        async fn verify_for_anybody(&self, password: Secret<String>, phc: Option<Secret<String>>) -> Result<Verdict, Busy> {
            self.verify(self.place(Asker::Stranger)?, password, phc).await
        }

        async fn any_turn(&self) -> OwnedSemaphorePermit {
            self.turn(self.place(Asker::Stranger).unwrap()).await.unwrap()
        }
    }

    #[tokio::test]
    async fn a_password_is_right_and_others_are_wrong() {
        let hasher = PasswordHasher::new(&CHEAP);
        let phc = hasher.hash_for_anybody(secret("correct horse")).await.unwrap();
        assert!(phc.expose().starts_with("$argon2id$v=19$m=64,t=2,p=1$"));
        assert_ne!(hasher.hash_for_anybody(secret("correct horse")).await.unwrap(), phc);
        assert_eq!(hasher.verify_for_anybody(secret("correct horse"), Some(phc.clone())).await, Ok(Verdict::Right { outdated: false }));
        for wrong in ["", "correct hors", "correct horse ", "Correct horse", "correct horse\0"] {
            assert_eq!(hasher.verify_for_anybody(secret(wrong), Some(phc.clone())).await, Ok(Verdict::Wrong), "{wrong:?}");
        }
    }

    // RFC 9106 in PHC form, made by the reference implementation (`echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -l 32`).
    #[test]
    fn known_hash() {
        let phc = secret("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc");
        let params = Params::new(64, 2, 1, None).unwrap();
        assert_eq!(verify(&params, &secret("password"), Some(&phc), &Pace::default()), Verdict::Right { outdated: false });
        assert_eq!(verify(&params, &secret("passwords"), Some(&phc), &Pace::default()), Verdict::Wrong);
    }

    // ENUM-1, NP-6: an unknown account costs one hash of the same parameters, like a wrong password.
    #[tokio::test]
    async fn unknown_accounts_cost_the_same_work() {
        let hasher = PasswordHasher::new(&CHEAP);
        let phc = hasher.hash_for_anybody(secret("correct horse")).await.unwrap();
        let before = hasher.hashes_done();
        assert_eq!(hasher.verify_for_anybody(secret("wrong"), Some(phc)).await, Ok(Verdict::Wrong));
        assert_eq!(hasher.verify_for_anybody(secret("wrong"), None).await, Ok(Verdict::Wrong));
        assert_eq!(hasher.hashes_done(), before + 2);
        // Nor is there a password that the dummy takes for right.
        assert_eq!(hasher.verify_for_anybody(secret("no password"), None).await, Ok(Verdict::Wrong));
        assert_eq!(hasher.verify_for_anybody(secret(""), None).await, Ok(Verdict::Wrong));
    }

    #[tokio::test]
    async fn weaker_hashes_are_outdated() {
        let phc = PasswordHasher::new(&CHEAP).hash_for_anybody(secret("correct horse")).await.unwrap();
        for (wanted, outdated) in [
            (CHEAP, false),
            (config::Argon2 { memory_kib: 65, ..CHEAP }, true),
            (config::Argon2 { iterations: 3, ..CHEAP }, true),
            (config::Argon2 { memory_kib: 63, iterations: 1, ..CHEAP }, false),
        ] {
            let verdict = PasswordHasher::new(&wanted).verify_for_anybody(secret("correct horse"), Some(phc.clone())).await;
            assert_eq!(verdict, Ok(Verdict::Right { outdated }), "{wanted:?}");
        }
    }

    #[tokio::test]
    async fn unusable_hashes_are_never_right() {
        let hasher = PasswordHasher::new(&CHEAP);
        let phc = hasher.hash_for_anybody(secret("password")).await.unwrap();
        let phc = phc.expose();
        let (without_hash, _) = phc.rsplit_once('$').unwrap();
        let (without_salt, _) = without_hash.rsplit_once('$').unwrap();
        for bad in [
            "",
            "$",
            "password",
            "$argon2id$",
            without_hash,
            without_salt,
            &phc.replace("argon2id", "argon2i"),
            &phc.replace("argon2id", "argon2d"),
            &phc.replace("m=64", "m=0"),
            &phc.replace("m=64", "m=4294967296"),
            &phc.replace("t=2", "t=0"),
            &phc.replace("p=1", "p=0"),
            &phc.replace("v=19", "v=18"),
            &format!("{phc}$x"),
            &format!(" {phc}"),
            "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW",
            "$pbkdf2-sha256$i=1000$c29tZXNhbHQ$AAAA",
        ] {
            assert_eq!(hasher.verify_for_anybody(secret("password"), Some(secret(bad))).await, Ok(Verdict::Wrong), "{bad:?}");
        }
    }

    // Cross-cutting 6: no truncation; 1024 bytes are a password, 1025 are not.
    #[tokio::test]
    async fn long_passwords_are_refused_and_not_cut() {
        let hasher = PasswordHasher::new(&CHEAP);
        for (length, verdict) in
            [(0, Verdict::Right { outdated: false }), (1024, Verdict::Right { outdated: false }), (1025, Verdict::Wrong)]
        {
            let password = "x".repeat(length);
            let phc = hasher.hash_for_anybody(secret(&password)).await.unwrap();
            assert_eq!(hasher.verify_for_anybody(secret(&password), Some(phc.clone())).await, Ok(verdict), "{length}");
            assert_eq!(hasher.verify_for_anybody(secret(&format!("{password}x")), Some(phc)).await, Ok(Verdict::Wrong), "{length}");
        }
    }

    // Cross-cutting 6: the queue is bounded, and a place is given back by who gives up.
    #[tokio::test]
    async fn the_queue_is_bounded() {
        let hasher = PasswordHasher::new(&CHEAP);
        let turn = hasher.any_turn().await;
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(hasher.verify_for_anybody(secret("x"), None))).collect();
        assert!(waiting.iter_mut().all(|attempt| attempt.as_mut().poll(&mut context).is_pending()));
        assert_eq!(hasher.queue_len(), MAX_WAITING);
        assert_eq!(hasher.verify_for_anybody(secret("x"), None).await, Err(Busy));
        assert_eq!(hasher.hash_for_anybody(secret("x")).await, Err(Busy));
        assert_eq!(hasher.queue_len(), MAX_WAITING);

        // Those who are known have places of their own beyond that, and these end too.
        let known: Vec<_> = (0..MAX_KNOWN_WAITING).map(|_| hasher.place(Asker::Known).unwrap()).collect();
        assert!(hasher.place(Asker::Known).is_err());
        drop(known);

        drop(waiting.pop());
        assert_eq!(hasher.queue_len(), MAX_WAITING - 1);
        assert!(pin!(hasher.verify_for_anybody(secret("x"), None)).poll(&mut context).is_pending());

        drop(turn);
        for attempt in waiting {
            assert_eq!(attempt.await, Ok(Verdict::Wrong));
        }
        assert_eq!(hasher.queue_len(), 0);
        assert_eq!(hasher.hashes_done(), u64::try_from(MAX_WAITING).unwrap() - 1);
    }

    #[tokio::test]
    async fn who_gives_up_keeps_the_turn_until_the_work_is_done() {
        let hasher = PasswordHasher::new(&CHEAP);
        {
            let mut attempt = pin!(hasher.hash_for_anybody(secret("x")));
            // It has begun; on a machine with an idle core it may even be done.
            let _begun = attempt.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        let turn = hasher.any_turn().await;
        assert_eq!(hasher.hashes_done(), 1);
        drop(turn);
    }

    // ENUM-1: an account whose hash is from before the cost was raised answers no sooner than one that does not exist.
    #[test]
    fn weaker_hashes_cost_what_the_others_do() {
        let params = |memory, passes| Params::new(memory, passes, 1, None).unwrap();
        let cost = |params: &Params| params.m_cost() * params.t_cost();
        for (stored, wanted) in
            [((19_456, 2), (47_104, 2)), ((19_456, 2), (19_456, 3)), ((7168, 5), (19_456, 2)), ((65_536, 1), (47_104, 3))]
        {
            let (stored, wanted) = (params(stored.0, stored.1), params(wanted.0, wanted.1));
            let rest = missing_work(&stored, &wanted).unwrap();
            let total = cost(&stored) + cost(&rest);
            assert!(total >= cost(&wanted) && total <= cost(&wanted) + 16, "{total}");
        }
        assert!(missing_work(&params(64, 2), &params(64, 2)).is_none());
        assert!(missing_work(&params(128, 2), &params(64, 2)).is_none());
    }

    #[test]
    fn a_core_is_left_for_requests() {
        assert_eq!([1, 2, 3, 4, 5, 64].map(default_at_once), [1, 1, 2, 3, 4, 4]);
    }

    #[test]
    fn impossible_costs_become_the_minimum() {
        let hasher = PasswordHasher::new(&config::Argon2 { memory_kib: 0, iterations: 0, parallelism: 0, max_concurrent: 0 });
        assert_eq!((hasher.params.m_cost(), hasher.params.t_cost(), hasher.params.p_cost()), (19 * 1024, 2, 1));
        assert!((1..=4).contains(&hasher.turns.available_permits()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn nothing_that_is_not_a_hash_is_right(password in ".*", phc in "(\\$[a-z0-9,=]{0,20}){0,6}", any in ".*") {
            let params = Params::new(8, 1, 1, None).unwrap();
            prop_assert_eq!(verify(&params, &secret(&password), Some(&secret(&phc)), &Pace::default()), Verdict::Wrong);
            prop_assert_eq!(verify(&params, &secret(&password), Some(&secret(&any)), &Pace::default()), Verdict::Wrong);
        }
    }
}
